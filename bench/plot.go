package main

import (
	"errors"
	"fmt"
	"image/color"
	"os"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// names of the peers in the plot.
var peerNames = map[string]string{
	"floor": "raw pipe, no JSON (the floor)", "pool": "pypool", "naive": "naive pipe loop", "http.server": "HTTP, http.server",
	"fastapi": "HTTP, FastAPI + uvicorn", "grpc": "gRPC", "executor.submit": "ProcessPoolExecutor (Python)", "exec": "exec for each call",
}

var (
	ours   = color.RGBA{R: 0xc4, G: 0x4e, B: 0x1b, A: 0xff}
	theirs = color.RGBA{R: 0x4a, G: 0x6a, B: 0x8a, A: 0xff}
	grid   = color.RGBA{R: 0xdd, G: 0xdd, B: 0xdd, A: 0xff}
)

// bar is a peer's median in the plot, and the range of its rounds.
type bar struct {
	name                string
	value, lower, upper float64
}

// draw writes the peers as a PNG: the latency of one caller, the throughput of eight.
func (r *results) draw(path string) error {
	plot.DefaultFont.Variant, plotter.DefaultFont.Variant = "Sans", "Sans"
	latency, err := r.panel("1c", p50, "One caller: median latency, µs (less is better)")
	if err != nil {
		return err
	}
	throughput, err := r.panel("8c", perSecond, "Eight callers: calls/s (more is better)")
	if err != nil {
		return err
	}
	const width, height = 11 * vg.Inch, 3.6 * vg.Inch
	canvas := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(144))}
	tiles := draw.Tiles{Rows: 1, Cols: 2, PadX: 0.3 * vg.Inch, PadTop: 0.1 * vg.Inch, PadBottom: 0.1 * vg.Inch, PadLeft: 0.1 * vg.Inch, PadRight: 0.25 * vg.Inch}
	panels := [][]*plot.Plot{{latency, throughput}}
	for i, c := range plot.Align(panels, tiles, draw.New(canvas))[0] {
		panels[0][i].Draw(c)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = canvas.WriteTo(f)
	return errors.Join(err, f.Close())
}

// panel shows one metric of the peers, the best at the top, on a logarithmic axis.
func (r *results) panel(callers, metric, title string) (*plot.Plot, error) {
	bars := r.bars(callers, metric)
	if len(bars) == 0 {
		return nil, errors.New("there is nothing to plot: the group peer was not measured")
	}
	p := plot.New()
	p.Title.Text = title
	p.Title.TextStyle.Font.Size = vg.Points(11)
	p.Title.Padding = vg.Points(6)
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, decades{}
	p.Y.Min, p.Y.Max = -0.6, float64(len(bars))-0.4
	p.Y.LineStyle.Width, p.Y.Tick.Length = 0, 0
	lines := plotter.NewGrid()
	lines.Vertical.Color, lines.Horizontal.Color = grid, nil
	p.Add(lines)
	var names []string
	for y, b := range bars {
		names = append(names, b.name)
		at := plotter.XY{X: b.value, Y: float64(y)}
		dot, err := plotter.NewScatter(plotter.XYs{at})
		if err != nil {
			return nil, err
		}
		dot.GlyphStyle = draw.GlyphStyle{Color: theirs, Radius: vg.Points(4), Shape: draw.CircleGlyph{}}
		if b.name == peerNames["pool"] {
			dot.Color = ours
		}
		line, err := plotter.NewLine(plotter.XYs{{X: b.lower, Y: at.Y}, {X: b.upper, Y: at.Y}})
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = dot.Color, vg.Points(1.5)
		label, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{at}, Labels: []string{number(b.value)}})
		if err != nil {
			return nil, err
		}
		label.Offset = vg.Point{X: vg.Points(-7), Y: vg.Points(5)}
		label.TextStyle[0].Font.Size = vg.Points(8)
		p.Add(line, dot, label)
	}
	p.NominalY(names...)
	p.X.Min, p.X.Max = p.X.Min/1.6, p.X.Max*1.6
	return p, nil
}

// bars are the peers' medians, the best last.
func (r *results) bars(callers, metric string) (bars []bar) {
	for _, g := range r.Groups {
		if g.Name != "peer" {
			continue
		}
		for _, c := range g.Cells {
			name, is := strings.CutSuffix(c.Name, "/"+callers)
			value, ok := c.median(metric)
			if !is || !ok {
				continue
			}
			b := bar{peerNames[name], value, value, value}
			for _, round := range c.Rounds {
				b.lower, b.upper = min(b.lower, round[metric]), max(b.upper, round[metric])
			}
			bars = append(bars, b)
		}
	}
	slices.SortFunc(bars, func(a, b bar) int {
		if (a.value < b.value) == (metric == perSecond) {
			return -1
		}
		return 1
	})
	return bars
}

// decades ticks a logarithmic axis at 1, 10, 100, with plain numbers.
type decades struct{}

func (decades) Ticks(lowest, highest float64) (ticks []plot.Tick) {
	for v := 1e-3; v < 1e9; v *= 10 {
		if v >= lowest && v <= highest {
			ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprint(v)})
		}
	}
	return ticks
}
