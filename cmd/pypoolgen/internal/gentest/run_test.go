package gentest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newClient(t *testing.T) *Client {
	t.Helper()
	pool, err := pypool.New(t.Context(), pypool.Config{
		Script: "../../testdata/gen/worker.py", Size: 1, Overflow: -1, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	return New(pool)
}

// same returns a check that a call gave want.
func same[T any](t *testing.T, want T) func(T, error) {
	return func(got T, err error) {
		t.Helper()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestScalarsAndDefaults(t *testing.T) {
	c, ctx := newClient(t), t.Context()
	same(t, "hello")(c.Summarize(ctx, SummarizeArgs{Text: "hello"}))
	same(t, "")(c.Summarize(ctx, SummarizeArgs{Text: "hello", Limit: Ptr(int64(0))})) // a zero that is not the default
	same(t, "HEL!")(c.Summarize(ctx, SummarizeArgs{Text: "hello", Limit: Ptr(int64(3)), Upper: true, Suffix: Ptr("!")}))
	same(t, map[string]string{"id": "0f9ef81c-6c1e-4d3a-9f2e-6b1d9c6f5a11", "path": "/tmp", "price": "1.10", "user_id": "u1"})(
		c.Scalars(ctx, ScalarsArgs{ID: "0f9ef81c-6c1e-4d3a-9f2e-6b1d9c6f5a11", Path: "/tmp", Price: "1.10"}))
	same(t, 2.5)(c.Number(ctx, NumberArgs{Value: 5}))
	same(t, int64(2))(c.Slowly(ctx, SlowlyArgs{N: 1}))
	same(t, json.RawMessage(`2`))(c.Pick(ctx, PickArgs{Mode: "fast"}))
	same(t, json.RawMessage(`"fast"`))(c.Pick(ctx, PickArgs{Mode: "fast", Either: "yes"}))
	same(t, json.RawMessage(`[null,1,null]`))(c.Bare(ctx, BareArgs{}))
	same(t, json.RawMessage(`{"fine":true}`))(c.Unmapped(ctx, UnmappedArgs{}))
	require.NoError(t, c.Nothing(ctx))

	got, err := c.Anything(ctx, AnythingArgs{Value: 1, Items: []any{nil}})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"value": 1.0, "table": map[string]any{}, "items": []any{nil}}, got)

	_, err = c.Slowly(ctx, SlowlyArgs{N: 1<<63 - 1}) // one more than int64 holds
	require.ErrorIs(t, err, pypool.ErrDecode)
}

// Where Python takes None and has another default, nil is None, and comes back as it.
func TestNilIsNoneWhereTheDefaultIsAnother(t *testing.T) {
	c, ctx := newClient(t), t.Context()
	none := json.RawMessage("null")
	same(t, Limits{Either: none})(c.Limits(ctx, LimitsArgs{}))
	same(t, Limits{Depth: Ptr(int64(0)), Names: []string{}, Either: json.RawMessage(`"x"`)})(
		c.Limits(ctx, LimitsArgs{Given: Limits{Depth: Ptr(int64(0)), Names: []string{}, Either: json.RawMessage(`"x"`)}}))
	same(t, Limits{Depth: Ptr(int64(7)), Names: []string{"a"}, Either: none})(c.Limits(ctx, LimitsArgs{Given: Limits{Names: []string{"a"}}, Most: Ptr(int64(7))}))
	same(t, []any{nil, nil, nil})(c.LimitsByPosition(ctx, LimitsByPositionArgs{}))
	same(t, []any{nil, "c", 3.0, 4.0})(c.LimitsByPosition(ctx, LimitsByPositionArgs{Second: Ptr("c"), Third: Ptr(int64(3)), More: []int64{4}}))
	same(t, map[string]any{"first": nil, "second": nil, "more": 1.0})(c.LimitsByName(ctx, LimitsByNameArgs{More: map[string]int64{"more": 1}}))
}

func TestClasses(t *testing.T) {
	c, ctx := newClient(t), t.Context()
	at := DateTime{Time: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)}
	user := User{ID: "u7", Name: "Ada", Address: &Address{Street: "Main St"}, CreatedAt: &at, Color: Ptr(ColorGreen)}
	got, err := c.MakeUser(ctx, MakeUserArgs{User: user})
	require.NoError(t, err)
	require.True(t, at.Equal(got.CreatedAt.Time))
	got.CreatedAt = nil
	require.Equal(t, User{
		ID: "u7", Name: "Ada", Tags: []string{}, Address: &Address{Street: "Main St", City: Ptr("Berlin")}, Scores: map[string]float64{},
		Retries: Ptr(int64(3)), Color: Ptr(ColorGreen),
	}, got)

	report, err := c.Report(ctx, ReportArgs{Users: []User{got, got}})
	require.NoError(t, err)
	require.Equal(t, Report{Title: "all", Users: []User{got, got}, ByColor: map[string]int64{"green": 2}, Ratio: 0.25, HTMLURL: "http://x/"}, report)
	report, err = c.Report(ctx, ReportArgs{}) // a nil slice is an empty list
	require.NoError(t, err)
	require.Empty(t, report.ByColor)

	same(t, int64(3))(c.Depth(ctx, DepthArgs{Node{Children: []Node{{}, {Children: []Node{{Value: 1}}}}}}))
	grown, err := c.Grow(ctx, GrowArgs{Node{Value: 1}})
	require.NoError(t, err)
	require.Equal(t, int64(2), grown.Value)
	require.Equal(t, int64(1), grown.Next.Value)

	same[*Egg](t, nil)(c.Hatch(ctx, HatchArgs{}))
	same[*Report](t, nil)(c.Maybe(ctx, MaybeArgs{}))
	maybe, err := c.Maybe(ctx, MaybeArgs{Found: true})
	require.NoError(t, err)
	require.Equal(t, "one", maybe.Title)

	same(t, Options{Depth: Ptr(int64(-1)), Mode: Ptr("slow")})(c.Options(ctx, OptionsArgs{Given: Options{DryRun: Ptr(true)}}))
	same(t, map[string]any{"a,b": 1.0, `quo"te`: "q"})(c.Odd(ctx, OddArgs{Given: map[string]any{"a,b": 1, `quo"te`: "q"}}))
	same(t, PageStr{Items: []string{"a"}, Total: 1})(c.Page(ctx, PageArgs{Names: []string{"a"}}))
	same(t, PageAddress{Items: []Address{{Street: "Main St", City: Ptr("Berlin")}}, Total: 1})(c.Pages(ctx))
	same(t, Seeded{State: 14})(c.Seeded(ctx, SeededArgs{SeededInput{Seed: 7}}))
	same(t, WorkerNew{Pool: "x"})(c.New(ctx, NewArgs{WorkerNew{Pool: "x"}}))
}

func TestTuples(t *testing.T) {
	c, ctx := newClient(t), t.Context()
	point := Point{X: 1, Y: 2, Label: "p"}
	same(t, Point{X: -1, Y: -2, Label: "p"})(c.Mirror(ctx, MirrorArgs{Point: point}))
	same(t, Point{X: 19, Y: 18, Label: "p"})(c.Mirror(ctx, MirrorArgs{Point: point, Origin: &Point{X: 10, Y: 10}}))
	same(t, TupleInt64StringFloat64List{V0: 3, V1: "n", V2: []float64{1, 2}})(
		c.Pair(ctx, PairArgs{Xy: [2]float64{1, 2}, Named: TupleStringInt64{V0: "n", V1: 3}}))
	same(t, []int64{1, 0, 1, 2})(c.Many(ctx, ManyArgs{Numbers: []int64{1}}))
	same(t, []int64{2, 7})(c.Many(ctx, ManyArgs{Names: []string{"a", "b", "a"}, More: []int64{7}}))

	// What went through encoding/json on this side comes back too.
	kept, err := json.Marshal(point)
	require.NoError(t, err)
	var back Point
	require.NoError(t, json.Unmarshal(kept, &back))
	require.Equal(t, point, back)
	require.ErrorContains(t, json.Unmarshal([]byte(`[1]`), &back), "a tuple of 3 came with 1 items")
	require.NoError(t, json.Unmarshal([]byte(`null`), &back))
}

// A tuple of another length is no tuple of the hint's, of one type or of several, and None is none.
func TestTuplesOfAnotherLengthAndNoneAreErrors(t *testing.T) {
	c, ctx := newClient(t), t.Context()
	same(t, Point{X: 1, Y: 2})(c.SpoiltPoint(ctx, SpoiltPointArgs{}))
	same(t, [2]float64{1, 2})(c.SpoiltPair(ctx, SpoiltPairArgs{}))
	same(t, TupleStringInt64{"a", 1})(c.SpoiltMixed(ctx, SpoiltMixedArgs{}))
	for how, text := range map[string]string{"none": "it is null", "short": " of ", "long": " of "} {
		_, err := c.SpoiltPoint(ctx, SpoiltPointArgs{How: how})
		require.ErrorIs(t, err, pypool.ErrDecode, how)
		require.ErrorContains(t, err, text)
		_, err = c.SpoiltPair(ctx, SpoiltPairArgs{How: how})
		require.ErrorIs(t, err, pypool.ErrDecode, how)
		require.ErrorContains(t, err, text)
		_, err = c.SpoiltMixed(ctx, SpoiltMixedArgs{How: how})
		require.ErrorIs(t, err, pypool.ErrDecode, how)
		require.ErrorContains(t, err, text)
	}
}

func TestEnumerations(t *testing.T) {
	c, ctx := newClient(t), t.Context()
	same(t, TupleColorPriority{ColorRed, PriorityLow})(c.Paint(ctx, PaintArgs{Color: ColorRed}))
	same(t, TupleColorPriority{ColorGreen, PriorityHigh})(c.Paint(ctx, PaintArgs{Color: ColorGreen, Priority: Ptr(PriorityHigh), Mixed: "two"}))
	same(t, []Color{ColorRed, ColorGreen})(c.PaintAll(ctx, PaintAllArgs{Colors: []Color{ColorRed}, ByName: map[string]Color{"x": ColorGreen}}))
	_, err := c.Paint(ctx, PaintArgs{Color: "blue"})
	require.ErrorIs(t, err, pypool.ErrInvalidArguments)
	require.ErrorContains(t, err, "expected Color (one of 'red', 'green')")
}

// A naive datetime stays one, and an aware one keeps its zone.
func TestDateTime(t *testing.T) {
	c, ctx := newClient(t), t.Context()
	for _, naive := range []bool{false, true} {
		at, err := c.Now(ctx, NowArgs{Naive: naive})
		require.NoError(t, err)
		require.Equal(t, naive, at.Naive)
		require.True(t, at.Equal(time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC)))
		back, err := c.When(ctx, WhenArgs{At: at, Day: Ptr("2026-01-02")})
		require.NoError(t, err)
		require.Equal(t, naive, back.Naive)
		require.True(t, at.Equal(back.Time))
	}
	east := DateTime{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 5400))}
	back, err := c.When(ctx, WhenArgs{At: east})
	require.NoError(t, err)
	require.Equal(t, east.Format(time.RFC3339Nano), back.Format(time.RFC3339Nano))
}

func TestNamesAndPositions(t *testing.T) {
	c, ctx := newClient(t), t.Context()
	same(t, "t 1 [2] True {'a': 3}")(c.Keywords(ctx, KeywordsArgs{Type: "t", Func: 1, Range: []int64{2}, Select: true, Map: map[string]int64{"a": 3}}))
	same(t, []int64{1, 2, 3})(c.Collide(ctx, CollideArgs{UserID: 1, UserID2: 2, UserID3: 3}))
	same(t, "get-user")(c.GetUser(ctx))
	same(t, "getUser")(c.GetUser2(ctx))
	same(t, int64(3))(c.GrößeÖlen(ctx, GrößeÖlenArgs{Größe: 3}))
	same(t, int64(1))(c.X1stTry(ctx))
	same(t, "x")(c.Client(ctx, ClientArgs{Client: "x"}))

	same(t, int64(6))(c.Positional(ctx, []int64{1, 2, 3}))
	same(t, int64(0))(c.Positional(ctx, nil))
	same(t, []int64{1, 10})(c.Rest(ctx, RestArgs{First: 1, More: []int64{5}})) // documented: Second is nil, so More is not sent
	same(t, []int64{1, 2, 5})(c.Rest(ctx, RestArgs{First: 1, Second: Ptr(int64(2)), More: []int64{5}}))
	same(t, map[string]any{"first": 1.0, "extra": map[string]any{"a": "<b>"}})(
		c.Keyword(ctx, KeywordArgs{First: 1, Extra: map[string]string{"a": "<b>", "first": "no"}}))
	same(t, map[string]any{"first": 1.0, "extra": map[string]any{}})(c.Keyword(ctx, KeywordArgs{First: 1}))
}

func TestStreams(t *testing.T) {
	c, ctx := newClient(t), t.Context()
	var numbers []int64
	for n, err := range c.Count(ctx, CountArgs{To: 1_000_000_000, Start: 5}) {
		require.NoError(t, err)
		if numbers = append(numbers, n); len(numbers) == 3 {
			break
		}
	}
	require.Equal(t, []int64{5, 6, 7}, numbers)

	var names []string
	for user, err := range c.Users(ctx, UsersArgs{Names: []string{"a", "b"}}) {
		require.NoError(t, err)
		names = append(names, user.ID+user.Name)
	}
	require.Equal(t, []string{"0a", "1b"}, names)

	for item, err := range c.UntypedStream(ctx) {
		same(t, json.RawMessage(`{"a":1}`))(item, err)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	for _, err := range c.Count(canceled, CountArgs{To: 1}) {
		require.ErrorIs(t, err, context.Canceled)
	}
}

func TestPrograms(t *testing.T) {
	c, ctx := newClient(t), t.Context()
	report, err := c.AnswerV2(ctx, AnswerV2Args{Question: "why"}, pypool.WithSession("s"))
	require.NoError(t, err)
	require.Equal(t, "why", report.Title)
	require.InDelta(t, 0.7, report.Ratio, 0)
	same(t, json.RawMessage(`{"a":1}`))(c.Free(ctx, map[string]any{"a": 1}))
	var steps []TupleInt64String
	for step, err := range c.Trace(ctx, TraceArgs{Steps: 2}) {
		require.NoError(t, err)
		steps = append(steps, step)
	}
	require.Equal(t, []TupleInt64String{{0, "step"}, {1, "step"}}, steps)

	_, err = c.AnswerV2(ctx, AnswerV2Args{}, pypool.WithSession(""))
	var e *pypool.Error
	require.True(t, errors.As(err, &e))
}
