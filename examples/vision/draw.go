package main

import (
	"image"
	"image/color"
	"math"
	"math/rand/v2"
)

const side = 64 // pixels: what the model takes

// draw makes a picture of a shape: somewhere, in some size and colours, with noise; the same one for
// the same number. The model has seen none of these: it is trained with Python's own drawings.
func draw(number uint64) (*image.RGBA, string) {
	random := rand.New(rand.NewPCG(number, 64))
	between := func(low, high float64) float64 { return low + (high-low)*random.Float64() }
	r := between(11, 21)
	cx, cy := between(r+2, side-r-2), between(r+2, side-r-2)
	shapes := []struct {
		name string
		has  func(x, y float64) bool // in units of r around the middle
	}{
		{"circle", func(x, y float64) bool { return math.Hypot(x, y) <= 1 }},
		{"diamond", func(x, y float64) bool { return math.Abs(x)+math.Abs(y) <= 1 }},
		{"square", func(x, y float64) bool { return max(math.Abs(x), math.Abs(y)) <= 1 }},
		{"triangle", func(x, y float64) bool { return y <= 1 && math.Abs(x) <= (y+1)/2 }},
	}
	shape := shapes[number%uint64(len(shapes))]
	dark, bright := [3]float64{}, [3]float64{}
	for c := range 3 {
		dark[c], bright[c] = between(10, 100), between(150, 240)
	}
	if random.IntN(2) == 0 {
		dark, bright = bright, dark
	}
	picture := image.NewRGBA(image.Rect(0, 0, side, side))
	for y := range side {
		for x := range side {
			ink := dark
			if shape.has((float64(x)-cx)/r, (float64(y)-cy)/r) {
				ink = bright
			}
			channel := func(c int) uint8 { return uint8(min(max(ink[c]+6*random.NormFloat64(), 0), 255)) }
			picture.SetRGBA(x, y, color.RGBA{channel(0), channel(1), channel(2), 255})
		}
	}
	return picture, shape.name
}
