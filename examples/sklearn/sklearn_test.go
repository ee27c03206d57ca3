package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/examples/internal/storytest"
	"github.com/pypool/pypool/examples/sklearn/iris"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStory(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), storytest.Python(t), &out))
	require.Equal(t, storytest.Output(t), out.String())
}

func TestModel(t *testing.T) {
	pool, err := pypool.New(t.Context(), config(storytest.Python(t)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	model := iris.New(pool)

	t.Run("knows flowers of the data", func(t *testing.T) {
		for species, flower := range map[iris.Species]iris.Flower{
			iris.SpeciesSetosa:     {SepalLength: 5.1, SepalWidth: 3.5, PetalLength: 1.4, PetalWidth: 0.2},
			iris.SpeciesVersicolor: {SepalLength: 7.0, SepalWidth: 3.2, PetalLength: 4.7, PetalWidth: 1.4},
			iris.SpeciesVirginica:  {SepalLength: 6.3, SepalWidth: 3.3, PetalLength: 6.0, PetalWidth: 2.5},
		} {
			got, err := model.Predict(t.Context(), iris.PredictArgs{Flower: flower})
			require.NoError(t, err)
			require.Equal(t, species, got.Species)
		}
		about, err := model.About(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 105, about.TrainedOn) // 70 % of 150
		require.Greater(t, about.Accuracy, 0.9)
	})

	t.Run("says the same of one and of many", func(t *testing.T) {
		list := flowers(40)
		all, err := model.PredictAll(t.Context(), iris.PredictAllArgs{Flowers: list})
		require.NoError(t, err)
		require.Len(t, all, len(list))
		for i, flower := range list { // whichever worker answers: all have the same model
			one, err := model.Predict(t.Context(), iris.PredictArgs{Flower: flower})
			require.NoError(t, err)
			require.Equal(t, one.Species, all[i].Species)
			sum := 0.0
			for name, p := range one.Probabilities {
				require.InDelta(t, p, all[i].Probabilities[name], 1e-12)
				require.LessOrEqual(t, p, one.Probability)
				sum += p
			}
			require.InDelta(t, 1, sum, 1e-12)
			require.InDelta(t, one.Probabilities[string(one.Species)], one.Probability, 0)
		}
		none, err := model.PredictAll(t.Context(), iris.PredictAllArgs{})
		require.NoError(t, err)
		require.Empty(t, none)
	})

	t.Run("projects as Go does", func(t *testing.T) {
		points := make([][]float64, 0, 100)
		for _, f := range flowers(100) {
			points = append(points, []float64{f.SepalLength, f.SepalWidth, f.PetalLength, f.PetalWidth})
		}
		got, err := model.Project(t.Context(), iris.ProjectArgs{Points: points})
		require.NoError(t, err)
		require.Len(t, got.Points, len(points))
		for i, point := range points {
			for axis := range 2 {
				sum := 0.0
				for j := range point {
					sum += (point[j] - got.Mean[j]) * got.Axes[axis][j]
				}
				require.InDelta(t, sum, got.Points[i][axis], 1e-12)
			}
		}
	})

	t.Run("numpy raises on a ragged matrix", func(t *testing.T) {
		_, err := model.Project(t.Context(), iris.ProjectArgs{Points: [][]float64{{1, 2, 3, 4}, {5}}})
		var raised *pypool.PythonError
		require.ErrorAs(t, err, &raised)
		require.Equal(t, "ValueError", raised.Type)
	})
}

// TestGenerated fails when worker.py was edited and `go generate` was not run.
func TestGenerated(t *testing.T) {
	fresh := filepath.Join(t.TempDir(), "iris_gen.go")
	out, err := exec.Command("go", "run", "github.com/pypool/pypool/cmd/pypoolgen",
		"-script", "worker.py", "-python", storytest.Python(t), "-package", "iris", "-o", fresh).CombinedOutput()
	require.NoError(t, err, "%s", out)
	want, err := os.ReadFile(fresh)
	require.NoError(t, err)
	got, err := os.ReadFile("iris/iris_gen.go")
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "run go generate in examples/sklearn")
}
