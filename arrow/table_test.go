package pypoolarrow_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
	pypoolarrow "github.com/pypool/pypool/arrow"
	"github.com/pypool/pypool/pypooltest"
)

// described is what a handler tells of a table.
type described struct {
	Class         string
	Types, Values map[string]string
}

// column is a column of a sample, and what pyarrow has for its type and its values.
type column struct {
	name        string
	typ         arrow.DataType
	json        string // its values as arrow-go reads them
	python      string
	values      string
	pandas      string // its values in pandas, and its type there
	pandasTypes string
	polars      string
}

var berlin = &arrow.TimestampType{Unit: arrow.Nanosecond, TimeZone: "Europe/Berlin"}

// columns are of three rows each, the second a null.
var columns = []column{
	{"bool", arrow.FixedWidthTypes.Boolean, `[true,null,false]`, "bool", "[True, None, False]", "[True, None, False]", "object", "[True, None, False]"},
	{"int8", arrow.PrimitiveTypes.Int8, `[-128,null,127]`, "int8", "[-128, None, 127]", "[-128, <NA>, 127]", "Int8", "[-128, None, 127]"},
	{"int64", arrow.PrimitiveTypes.Int64, `[9007199254740993,null,-9223372036854775808]`, "int64", "[9007199254740993, None, -9223372036854775808]", "[9007199254740993, <NA>, -9223372036854775808]", "Int64", "[9007199254740993, None, -9223372036854775808]"},
	{"uint64", arrow.PrimitiveTypes.Uint64, `[18446744073709551615,null,0]`, "uint64", "[18446744073709551615, None, 0]", "[18446744073709551615, <NA>, 0]", "UInt64", "[18446744073709551615, None, 0]"},
	{"float32", arrow.PrimitiveTypes.Float32, `[0.5,null,-1.25]`, "float", "[0.5, None, -1.25]", "[0.5, nan, -1.25]", "float32", "[0.5, None, -1.25]"},
	{"float64", arrow.PrimitiveTypes.Float64, `[0.1,null,1e300]`, "double", "[0.1, None, 1e+300]", "[0.1, nan, 1e+300]", "float64", "[0.1, None, 1e+300]"},
	{"string", arrow.BinaryTypes.String, `["",null,"Grüße 😀"]`, "string", "['', None, 'Grüße 😀']", "['', nan, 'Grüße 😀']", "str", "['', None, 'Grüße 😀']"},
	{"large_string", arrow.BinaryTypes.LargeString, `["x",null,"\"\n"]`, "large_string", `['x', None, '"\n']`, `['x', nan, '"\n']`, "str", `['x', None, '"\n']`},
	{"string_view", arrow.BinaryTypes.StringView, `["short",null,"a text of more than twelve bytes"]`, "string_view", "['short', None, 'a text of more than twelve bytes']", "['short', nan, 'a text of more than twelve bytes']", "str", "['short', None, 'a text of more than twelve bytes']"},
	{"binary", arrow.BinaryTypes.Binary, `["AP8=",null,""]`, "binary", `[b'\x00\xff', None, b'']`, `[b'\x00\xff', None, b'']`, "object", `[b'\x00\xff', None, b'']`},
	{"zoned", berlin, `["2026-07-01T10:30:00.123456789Z",null,"1969-12-31T23:00:00Z"]`, "timestamp[ns, tz=Europe/Berlin]", "[Timestamp('2026-07-01 12:30:00.123456789+0200', tz='Europe/Berlin'), None, Timestamp('1970-01-01 00:00:00+0100', tz='Europe/Berlin')]", "[Timestamp('2026-07-01 12:30:00.123456789+0200', tz='Europe/Berlin'), NaT, Timestamp('1970-01-01 00:00:00+0100', tz='Europe/Berlin')]", "datetime64[ns, Europe/Berlin]", "[datetime.datetime(2026, 7, 1, 12, 30, 0, 123456, tzinfo=zoneinfo.ZoneInfo(key='Europe/Berlin')), None, datetime.datetime(1970, 1, 1, 0, 0, tzinfo=zoneinfo.ZoneInfo(key='Europe/Berlin'))]"},
	{"millis", arrow.FixedWidthTypes.Timestamp_ms, `["2026-07-01T10:30:00.123Z",null,"1969-12-31T23:59:59.999Z"]`, "timestamp[ms, tz=UTC]", "[datetime.datetime(2026, 7, 1, 10, 30, 0, 123000, tzinfo=zoneinfo.ZoneInfo(key='UTC')), None, datetime.datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=zoneinfo.ZoneInfo(key='UTC'))]", "[Timestamp('2026-07-01 10:30:00.123000+0000', tz='UTC'), NaT, Timestamp('1969-12-31 23:59:59.999000+0000', tz='UTC')]", "datetime64[ms, UTC]", "[datetime.datetime(2026, 7, 1, 10, 30, 0, 123000, tzinfo=zoneinfo.ZoneInfo(key='UTC')), None, datetime.datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=zoneinfo.ZoneInfo(key='UTC'))]"},
	{"date", arrow.FixedWidthTypes.Date32, `["2026-01-02",null,"1969-12-31"]`, "date32[day]", "[datetime.date(2026, 1, 2), None, datetime.date(1969, 12, 31)]", "[datetime.date(2026, 1, 2), None, datetime.date(1969, 12, 31)]", "object", "[datetime.date(2026, 1, 2), None, datetime.date(1969, 12, 31)]"},
	{"decimal", &arrow.Decimal128Type{Precision: 30, Scale: 2}, `["12345678901234567890.12",null,"-0.01"]`, "decimal128(30, 2)", "[Decimal('12345678901234567890.12'), None, Decimal('-0.01')]", "[Decimal('12345678901234567890.12'), None, Decimal('-0.01')]", "object", "[Decimal('12345678901234567890.12'), None, Decimal('-0.01')]"},
	{"dictionary", &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}, `["red",null,"blue"]`, "dictionary<values=string, indices=int8, ordered=0>", "['red', None, 'blue']", "['red', nan, 'blue']", "category", "['red', None, 'blue']"},
	{"list", arrow.ListOf(arrow.PrimitiveTypes.Int64), `[[9007199254740993,null],null,[]]`, "list<item: int64>", "[[9007199254740993, None], None, []]", "[array([9007199254740993, None], dtype=object), None, array([], dtype=object)]", "object", "[[9007199254740993, None], None, []]"},
	{"struct", arrow.StructOf(arrow.Field{Name: "a", Type: arrow.PrimitiveTypes.Int64, Nullable: true}, arrow.Field{Name: "b", Type: arrow.ListOf(arrow.BinaryTypes.String), Nullable: true}), `[{"a":1,"b":["x",null]},null,{"a":null,"b":null}]`, "struct<a: int64, b: list<item: string>>", "[{'a': 1, 'b': ['x', None]}, None, {'a': None, 'b': None}]", "[{'a': 1, 'b': array(['x', None], dtype=object)}, None, {'a': None, 'b': None}]", "object", "[{'a': 1, 'b': ['x', None]}, None, {'a': None, 'b': None}]"},
}

// sample is those columns as a table of one chunk.
func sample(t testing.TB, but ...string) arrow.Table {
	var fields []arrow.Field
	var arrays []arrow.Array
	for _, c := range columns {
		if strings.Contains(strings.Join(but, " "), c.name) {
			continue
		}
		made, _, err := array.FromJSON(memory.DefaultAllocator, c.typ, strings.NewReader(c.json))
		require.NoError(t, err, c.name)
		fields = append(fields, arrow.Field{Name: c.name, Type: c.typ, Nullable: true})
		arrays = append(arrays, made)
	}
	return tableOf(arrow.NewSchema(fields, nil), arrays)
}

func TestWhatPythonGets(t *testing.T) {
	p, table := pool(t), sample(t)
	batch := array.NewTableReader(table, 0)
	require.True(t, batch.Next())
	for command, class := range map[string]string{
		"unhinted": "pyarrow.Table", "as_table": "pyarrow.Table", "as_batch": "pyarrow.RecordBatch", "as_reader": "pyarrow.RecordBatchReader",
		"as_pandas": "pandas.DataFrame", "as_polars": "polars.DataFrame", "as_lazy": "polars.LazyFrame",
	} {
		for _, value := range []any{
			pypoolarrow.Table{Table: table}, &pypoolarrow.Table{Table: table}, pypoolarrow.RecordBatch{RecordBatch: batch.RecordBatch()},
		} {
			got, err := pypool.Call[described](t.Context(), p, command, args{"table": value})
			require.NoError(t, err, command)
			if _, one := value.(pypoolarrow.RecordBatch); one && command == "unhinted" {
				class = "pyarrow.RecordBatch"
			}
			assert.Equal(t, class, got.Class)
			for _, c := range columns {
				switch {
				case command == "as_pandas":
					assert.Equal(t, c.pandasTypes+" "+c.pandas, got.Types[c.name]+" "+got.Values[c.name], c.name)
				case strings.HasPrefix(class, "polars"):
					assert.Equal(t, c.polars, got.Values[c.name], c.name)
				default:
					assert.Equal(t, c.python+" "+c.values, got.Types[c.name]+" "+got.Values[c.name], c.name)
				}
			}
		}
	}
}

// There and back through each library, what comes is what was sent; types may be others of the same
// kind.
func TestThereAndBack(t *testing.T) {
	p := pool(t)
	table := sample(t)
	for _, command := range []string{"back", "back_table", "back_batch", "back_reader", "back_pandas", "back_polars", "back_lazy"} {
		got, err := pypoolarrow.Call(t.Context(), p, command, args{"table": pypoolarrow.Table{Table: table}})
		require.NoError(t, err, command)
		require.EqualValues(t, 3, got.NumRows())
		require.EqualValues(t, len(columns), got.NumCols())
		for i, c := range columns {
			require.Equal(t, c.name, got.Schema().Field(i).Name, command)
			if !strings.HasSuffix(command, "pandas") && !strings.HasSuffix(command, "polars") && !strings.HasSuffix(command, "lazy") {
				require.True(t, arrow.TypeEqual(c.typ, got.Schema().Field(i).Type), "%s: %s", command, got.Schema().Field(i).Type)
				require.True(t, array.ChunkedEqual(table.Column(i).Data(), got.Column(i).Data()), "%s: %s", command, c.name)
			}
			require.Equal(t, texts(table.Column(i)), texts(got.Column(i)), "%s: %s", command, c.name)
			require.Equal(t, 1, got.Column(i).NullN())
		}
	}
}

// texts are a column's values as text: the same for every type that has them.
func texts(c *arrow.Column) (values []string) {
	for _, chunk := range c.Data().Chunks() {
		for i := range chunk.Len() {
			if d, ok := chunk.(*array.Dictionary); ok && d.IsValid(i) {
				values = append(values, d.Dictionary().ValueStr(d.GetValueIndex(i)))
				continue
			}
			values = append(values, chunk.ValueStr(i))
		}
	}
	return values
}

func TestWhatGoGets(t *testing.T) {
	p := pool(t)
	table, err := pypoolarrow.Call(t.Context(), p, "sample", nil)
	require.NoError(t, err)
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	at := arrow.Timestamp(time.Date(2026, 7, 1, 12, 30, 0, 123456000, berlin).UnixMicro())
	column := func(name string) arrow.Array {
		found := table.Schema().FieldIndices(name)
		require.Len(t, found, 1, name)
		require.Len(t, table.Column(found[0]).Data().Chunks(), 1)
		return table.Column(found[0]).Data().Chunk(0)
	}
	require.Equal(t, 3, column("none").(*array.Null).NullN())
	require.Equal(t, []bool{true, false, false}, []bool{column("bool").(*array.Boolean).Value(0), column("bool").IsValid(1), column("bool").(*array.Boolean).Value(2)})
	require.Equal(t, int8(127), column("int8").(*array.Int8).Value(2))
	require.Equal(t, uint64(math.MaxUint64), column("uint64").(*array.Uint64).Value(2))
	require.Equal(t, []int64{math.MinInt64, 1<<53 + 1}, []int64{column("int64").(*array.Int64).Value(0), column("int64").(*array.Int64).Value(2)})
	require.Equal(t, float32(0.5), column("float16").(*array.Float16).Value(0).Float32())
	require.Equal(t, []float64{math.Inf(-1), 0.1}, []float64{column("float64").(*array.Float64).Value(0), column("float64").(*array.Float64).Value(2)})
	require.Equal(t, "Grüße 😀", column("string").(*array.String).Value(2))
	require.Equal(t, "xxxxxxxxxx", column("large_string").(*array.LargeString).Value(0))
	require.Equal(t, "a text of more than twelve bytes", column("string_view").(*array.StringView).Value(2))
	require.Equal(t, []byte{0, 0xff}, column("binary").(*array.Binary).Value(0))
	require.Equal(t, "def", string(column("fixed").(*array.FixedSizeBinary).Value(2)))
	require.Equal(t, at, column("zoned").(*array.Timestamp).Value(2))
	require.Equal(t, &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "Europe/Berlin"}, column("zoned").DataType())
	require.Equal(t, arrow.Timestamp(-1), column("nanos").(*array.Timestamp).Value(2))
	require.Equal(t, "2026-01-02", column("date").(*array.Date32).Value(0).FormattedString())
	require.Equal(t, arrow.Time64(3723000000), column("time").(*array.Time64).Value(0))
	require.Equal(t, arrow.Duration(-5), column("duration").(*array.Duration).Value(2))
	require.Equal(t, "12345678901234567890.12", column("decimal").(*array.Decimal128).Value(0).ToString(2))
	require.Equal(t, "1"+strings.Repeat("0", 40), column("decimal256").(*array.Decimal256).Value(0).ToString(0))
	colours := column("dictionary").(*array.Dictionary)
	require.Equal(t, "red", colours.Dictionary().(*array.String).Value(colours.GetValueIndex(2)))
	for name, want := range map[string]string{
		"list": `[1,null] (null) []`, "large_list": `["a"] (null) []`, "pair": `[1,2] (null) [3,4]`,
		"struct": `{"a":1,"b":[{"c":"x"}]} (null) {"a":null,"b":[]}`, "map": `[{"key":"k","value":1}] (null) []`, "runs": `r r s`,
		"union": `[0,5] [1,"u"] [0,6]`,
	} {
		var values []string
		for i := range 3 {
			values = append(values, strings.ReplaceAll(column(name).ValueStr(i), ": ", ":"))
		}
		assert.Equal(t, want, strings.Join(values, " "), name)
	}
	for _, name := range []string{"int8", "string", "zoned", "decimal", "dictionary", "list", "struct", "map"} {
		require.True(t, column(name).IsNull(1), name)
	}
	again, err := pypoolarrow.Call(t.Context(), p, "back", args{"table": pypoolarrow.Table{Table: table}})
	require.NoError(t, err)
	require.True(t, array.TableEqual(table, again))
}

func TestChunks(t *testing.T) {
	p := pool(t)
	one, two := numbers("n", 1, 2), numbers("n", 3)
	chunked := tableOf(one.Schema(), []arrow.Array{one.Column(0).Data().Chunk(0)}, []arrow.Array{two.Column(0).Data().Chunk(0)})
	sizes, err := pypool.Call[[]int](t.Context(), p, "chunks", args{"table": pypoolarrow.Table{Table: chunked}})
	require.NoError(t, err)
	require.Equal(t, []int{2, 1}, sizes)
	got, err := pypoolarrow.Call(t.Context(), p, "sliced", nil)
	require.NoError(t, err)
	require.Equal(t, []string{"1", "2", "(null)", "4"}, texts(got.Column(0)))
	require.Equal(t, []string{"c", "d", "x", "(null)"}, texts(got.Column(1)))
	again, err := pypoolarrow.Call(t.Context(), p, "back", args{"table": pypoolarrow.Table{Table: got}})
	require.NoError(t, err)
	require.True(t, array.TableEqual(got, again))
	batch, err := pypool.Call[pypoolarrow.RecordBatch](t.Context(), p, "sliced", nil)
	require.NoError(t, err)
	require.EqualValues(t, 4, batch.NumRows())
	require.Equal(t, "[1 2 (null) 4]", fmt.Sprint(batch.Column(0)))
	part := array.NewTableReader(chunked, 0)
	require.True(t, part.Next())
	sizes, err = pypool.Call[[]int](t.Context(), p, "chunks", args{"table": pypoolarrow.RecordBatch{RecordBatch: part.RecordBatch().NewSlice(1, 2)}})
	require.NoError(t, err)
	require.Equal(t, []int{1}, sizes)
}

func TestEmptyTables(t *testing.T) {
	p := pool(t)
	for _, how := range []string{"table", "batch", "no columns"} {
		table, err := pypoolarrow.Call(t.Context(), p, "empties", []any{how})
		require.NoError(t, err)
		require.Zero(t, table.NumRows())
		require.Equal(t, how == "no columns", table.NumCols() == 0)
		batch, err := pypool.Call[pypoolarrow.RecordBatch](t.Context(), p, "empties", []any{how})
		require.NoError(t, err)
		require.True(t, table.Schema().Equal(batch.Schema()))
		require.Zero(t, batch.NumRows())
		for _, back := range []string{"back", "back_table", "back_batch", "back_reader"} {
			for _, value := range []any{pypoolarrow.Table{Table: table}, batch} {
				again, err := pypoolarrow.Call(t.Context(), p, back, args{"table": value})
				require.NoError(t, err, how)
				require.True(t, again.Schema().Equal(table.Schema()), "%s: %s", back, again.Schema())
				require.Zero(t, again.NumRows())
			}
		}
	}
	for _, back := range []string{"back_pandas", "back_polars"} {
		again, err := pypoolarrow.Call(t.Context(), p, back, args{"table": pypoolarrow.Table{Table: numbers("n")}})
		require.NoError(t, err)
		require.Equal(t, "n", again.Schema().Field(0).Name)
		require.Equal(t, arrow.PrimitiveTypes.Int64, again.Schema().Field(0).Type)
	}
}

func TestTablesAnywhere(t *testing.T) {
	p := pool(t)
	got, err := pypool.Call[struct {
		Image  []byte
		Tables []*pypoolarrow.Table
		None   *pypoolarrow.Table
		N      int
	}](t.Context(), p, "mixed", nil)
	require.NoError(t, err)
	require.Len(t, got.Image, 5000)
	require.Len(t, got.Tables, 2)
	require.Equal(t, []string{"1"}, texts(got.Tables[1].Column(0)))
	require.Nil(t, got.None)
	require.Equal(t, 7, got.N)
	name, err := pypool.Call[string](t.Context(), p, "maybe", args{"table": (*pypoolarrow.Table)(nil)})
	require.NoError(t, err)
	require.Equal(t, "NoneType", name)
	name, err = pypool.Call[string](t.Context(), p, "maybe", args{"table": []args{{"a": 1}}}) // records, as JSON
	require.NoError(t, err)
	require.Equal(t, "DataFrame", name)

	indexed, err := pypoolarrow.Call(t.Context(), p, "indexed", nil) // a named index is a column
	require.NoError(t, err)
	require.Equal(t, []string{"2", "4"}, texts(indexed.Column(0)))
	require.Equal(t, "city", indexed.Schema().Field(1).Name)
	require.Equal(t, []string{"Oslo", "Rome"}, texts(indexed.Column(1)))

	host, err := pypoolarrow.Call(t.Context(), p, "through_host", args{"table": pypoolarrow.Table{Table: numbers("n", 1, 2)}})
	require.NoError(t, err)
	require.Equal(t, []string{"2", "4"}, texts(host.Column(0)))
	inputs := func(yield func(args) bool) {
		for i := range int64(5) {
			if !yield(args{"table": pypoolarrow.Table{Table: numbers("n", i)}}) {
				return
			}
		}
	}
	for _, command := range []string{"batched", "shared"} {
		i := int64(0)
		for table, err := range pypool.Map[pypoolarrow.Table](t.Context(), p, command, inputs) {
			require.NoError(t, err)
			require.Equal(t, []string{fmt.Sprint(2 * i)}, texts(table.Column(0)), command)
			i++
		}
		require.EqualValues(t, 5, i)
	}
	for _, size := range []int{4096, 4097, 5003, 0} { // what follows odd bytes is not where it should be
		table := pypoolarrow.Table{Table: sample(t, "string_view")}
		more := numbers("n", 5, 6)
		schema := arrow.NewSchema([]arrow.Field{more.Schema().Field(0), {Name: "s", Type: arrow.BinaryTypes.String}}, nil)
		texts := array.NewStringBuilder(memory.DefaultAllocator)
		texts.AppendValues([]string{"a", "bc"}, nil)
		small := pypoolarrow.Table{Table: tableOf(schema, []arrow.Array{more.Column(0).Data().Chunk(0), texts.NewArray()})}
		got, err := pypool.Call[[]any](t.Context(), p, "aside", []any{make([]byte, size), small, small})
		require.NoError(t, err)
		require.Equal(t, []any{float64(size), []any{"a", "bc"}, []any{"a", "bc"}, []any{5., 6.}, 11.}, got)
		got, err = pypool.Call[[]any](t.Context(), p, "back", []any{[]any{make([]byte, size), table}})
		require.Error(t, err)
		require.Nil(t, got)
	}
}

func TestStreamOfBatches(t *testing.T) {
	p := pool(t)
	n := int64(0)
	for batch, err := range pypoolarrow.Each(t.Context(), p, "batches", args{"n": 50, "rows": 100}) {
		require.NoError(t, err)
		for _, v := range batch.Column(0).(*array.Int64).Int64Values() {
			require.Equal(t, n, v)
			n++
		}
		batch.Release()
	}
	require.EqualValues(t, 5000, n)
	var sizes []int64
	var last error
	for batch, err := range pypoolarrow.Each(t.Context(), p, "stream_of_all", nil) {
		if last = err; err != nil {
			require.Nil(t, batch)
			continue
		}
		sizes = append(sizes, batch.NumRows())
	}
	require.Equal(t, []int64{1, 2, 0, 3, 1, 2}, sizes)
	require.ErrorIs(t, last, pypool.ErrDecode)
	var kept []arrow.RecordBatch // what is left early stops the generator, and what was given stays
	for batch, err := range pypoolarrow.Each(t.Context(), p, "batches", args{"n": 1000, "rows": 1000}) {
		require.NoError(t, err)
		if kept = append(kept, batch); len(kept) == 3 {
			break
		}
	}
	require.EqualValues(t, 2999, kept[2].Column(0).(*array.Int64).Value(999))
	require.EqualValues(t, 0, kept[0].Column(0).(*array.Int64).Value(0))
	for table, err := range pypoolarrow.Each(t.Context(), p, "sliced", nil) {
		require.NoError(t, err)
		require.EqualValues(t, 2, table.NumCols())
	}
}

func TestHandlersMayKeepTables(t *testing.T) {
	p := pool(t)
	for i := range int64(20) {
		n := make([]int64, 1000)
		for j := range n {
			n[j] = i
		}
		whole, err := pypool.Call[int64](t.Context(), p, "keep", args{"table": pypoolarrow.Table{Table: numbers("n", n...)}})
		require.NoError(t, err)
		require.Equal(t, i+1, whole)
	}
}

func TestWhatIsNoTable(t *testing.T) {
	p := pool(t)
	for what, words := range map[string]string{
		"dict": "an object came, which is no table: return a Table or RecordBatch of pyarrow", "list": "a list came", "text": "text came", "number": "a number or a boolean came",
		"none": "it is null (None in Python)", "bytes": "bytes or an array came, which are no table", "array": "bytes or an array came, which are no table",
	} {
		_, err := pypoolarrow.Call(t.Context(), p, "other", args{"what": what})
		require.ErrorIs(t, err, pypool.ErrDecode, what)
		require.ErrorContains(t, err, words)
		_, err = pypool.Call[pypoolarrow.RecordBatch](t.Context(), p, "other", args{"what": what})
		require.ErrorIs(t, err, pypool.ErrDecode, what)
	}
	_, err := pypool.Call[any](t.Context(), p, "sample", nil)
	require.ErrorIs(t, err, pypool.ErrInvalidResult)
	require.ErrorContains(t, err, "return table.to_pylist(), or table.to_pydict() by columns; or have Go ask for a pypoolarrow.Table")
	_, err = pypool.Call[struct{ Image, N any }](t.Context(), p, "mixed", nil)
	require.ErrorIs(t, err, pypool.ErrInvalidResult)
	_, err = pypool.Call[struct {
		Image  []byte
		Tables []any
	}](t.Context(), p, "mixed", nil)
	require.ErrorIs(t, err, pypool.ErrDecode)
	require.ErrorContains(t, err, `"arrow.Table", which JSON has no form for: decode it into what takes that`)
	stream, err := pypool.Call[[]byte](t.Context(), p, "sample", nil)
	require.NoError(t, err)
	for _, command := range []string{"as_table", "as_pandas", "as_polars"} {
		got, err := pypool.Call[described](t.Context(), p, "as_table", args{"table": stream}) // bytes, by hint
		require.NoError(t, err, command)
		require.Equal(t, "[-9223372036854775808, None, 9007199254740993]", got.Values["int64"])
	}
	_, err = pypool.Call[described](t.Context(), p, "as_pandas", args{"table": stream[:5000]})
	require.ErrorIs(t, err, pypool.ErrInvalidArguments)
	require.ErrorContains(t, err, "was cut off")
	_, err = pypool.Call[any](t.Context(), p, "as_polars", args{"table": 5})
	require.ErrorIs(t, err, pypool.ErrInvalidArguments)
	require.ErrorContains(t, err, "argument 'table': expected polars.DataFrame (pypoolarrow.Table in Go)")
	_, err = pypool.Call[any](t.Context(), p, "unhinted", args{"table": pypoolarrow.Table{}})
	require.ErrorIs(t, err, pypool.ErrInvalidArguments)
	require.ErrorContains(t, err, "the pypoolarrow.Table at args.table: it has no table")
	_, err = pypool.Call[pypoolarrow.Table](t.Context(), p, "unwritable", nil)
	require.ErrorIs(t, err, pypool.ErrInvalidResult)
	require.ErrorContains(t, err, "this DataFrame cannot be sent as a table: Arrow")
	require.ErrorContains(t, err, "at $.frame[0]")
	for _, how := range []string{"table", "reader"} {
		got, err := pypool.Call[struct {
			Table pypoolarrow.Table
			NaN   *float64
		}](t.Context(), p, "with_nan", args{"how": how})
		require.NoError(t, err)
		require.Nil(t, got.NaN)
		require.Equal(t, []string{"NaN", "1"}, texts(got.Table.Column(0)))
	}
}

func TestHostileTables(t *testing.T) {
	p := pool(t)
	for _, how := range []string{"offsets", "beyond", "list", "index"} {
		_, err := pypoolarrow.Call(t.Context(), p, "hostile", args{"how": how})
		require.ErrorIs(t, err, pypool.ErrDecode, how)
		require.ErrorContains(t, err, "malformed", how)
	}
	kind, data, err := pypoolarrow.Table{Table: numbers("n", 1, 2, 3)}.PythonPayload()
	require.NoError(t, err)
	for _, bad := range [][]byte{nil, data[:7], data[:len(data)/2], data[:len(data)-8], data[:len(data)-1], append(make([]byte, 64), data[len(data)-8:]...), []byte("no stream at all, but for its end\xff\xff\xff\xff\x00\x00\x00\x00")} {
		_, err := pypool.Call[any](t.Context(), p, "unhinted", args{"table": payload{kind, bad}})
		require.ErrorIs(t, err, pypool.ErrInvalidArguments)
		require.ErrorContains(t, err, "a payload of the kind 'arrow.Table' cannot be read")
	}
	got, err := pypool.Call[described](t.Context(), p, "unhinted", args{"table": payload{kind, data}})
	require.NoError(t, err)
	require.Equal(t, "[1, 2, 3]", got.Values["n"])
}

// payload is one that another program has made.
type payload struct {
	kind string
	data []byte
}

func (p payload) PythonPayload() (string, []byte, error) { return p.kind, p.data, nil }

func TestAMillionRows(t *testing.T) {
	p, rows := pool(t), 1_000_000
	table := million(rows)
	for _, command := range []string{"back", "back_pandas", "back_polars"} {
		got, err := pypoolarrow.Call(t.Context(), p, command, args{"table": pypoolarrow.Table{Table: table}}, pypool.WithTimeout(time.Minute))
		require.NoError(t, err)
		require.EqualValues(t, rows, got.NumRows())
		row := 0
		for r := array.NewTableReader(got, 0); r.Next(); {
			batch := r.RecordBatch()
			keys, values := batch.Column(0).(*array.Int64), batch.Column(1).(*array.Float64)
			name := func(i int) string { return batch.Column(2).(array.StringLike).Value(i) }
			for i := range int(batch.NumRows()) {
				if keys.Value(i) != int64(row%1000) || values.Value(i) != float64(row)/2 || name(i) != names[row%len(names)] {
					t.Fatalf("%s: row %d is %d, %v, %q", command, row, keys.Value(i), values.Value(i), name(i))
				}
				row++
			}
		}
		require.Equal(t, rows, row)
	}
}

var names = []string{"", "Rome", "Oslo", "a longer name than the others have", "Zürich"}

// million is a table of the columns key, value and name.
func million(rows int) arrow.Table {
	b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{
		{Name: "key", Type: arrow.PrimitiveTypes.Int64}, {Name: "value", Type: arrow.PrimitiveTypes.Float64}, {Name: "name", Type: arrow.BinaryTypes.String},
	}, nil))
	b.Reserve(rows)
	for row := range rows {
		b.Field(0).(*array.Int64Builder).Append(int64(row % 1000))
		b.Field(1).(*array.Float64Builder).Append(float64(row) / 2)
		b.Field(2).(*array.StringBuilder).Append(names[row%len(names)])
	}
	return array.NewTableFromRecords(b.Schema(), []arrow.RecordBatch{b.NewRecordBatch()})
}

// relayed is a Caller whose calls are served elsewhere, as over NATS: what crosses is bytes.
type relayed struct{ *pypool.Pool }

func (r relayed) ExecuteAnonymous(ctx context.Context, command string, in any, opts ...pypool.CallOption) (pypool.Result, error) {
	sent, err := pypool.EncodeArgs(in)
	if err != nil {
		return pypool.Result{}, err
	}
	if in, err = pypool.DecodeArgs(sent); err != nil {
		return pypool.Result{}, err
	}
	res, err := r.Pool.ExecuteAnonymous(ctx, command, in, opts...)
	if err != nil {
		return res, err
	}
	return pypool.DecodeResult(pypool.EncodeResult(res), pypool.ResultInfo{}), nil
}

func TestAnyCaller(t *testing.T) {
	table := sample(t)
	got, err := pypoolarrow.Call(t.Context(), relayed{pool(t)}, "back", args{"table": pypoolarrow.Table{Table: table}})
	require.NoError(t, err)
	require.True(t, array.TableEqual(table, got))
	_, err = pypoolarrow.Call(t.Context(), nil, "back", nil)
	require.ErrorIs(t, err, pypool.ErrPoolClosed)
	for _, err := range pypoolarrow.Each(t.Context(), nil, "back", nil) {
		require.ErrorIs(t, err, pypool.ErrPoolClosed)
	}
	fake := pypooltest.New()
	pypooltest.Handle(fake, "double", double)
	pypooltest.Handle(fake, "back", func(_ context.Context, in struct{ Table pypoolarrow.Table }) (pypoolarrow.Table, error) {
		return in.Table, nil
	})
	doubled, err := pypool.Call[struct{ Table pypoolarrow.Table }](t.Context(), fake, "double", args{"table": pypoolarrow.Table{Table: numbers("n", 1, 2)}})
	require.NoError(t, err)
	require.Equal(t, []string{"2", "4"}, texts(doubled.Table.Column(0)))
	got, err = pypoolarrow.Call(t.Context(), fake, "back", args{"table": pypoolarrow.Table{Table: table}})
	require.NoError(t, err)
	require.True(t, array.TableEqual(table, got))
}

// A frame's integers stay with its index, though Go has had them meanwhile.
func TestIntegersWithNullsStayInTheirRows(t *testing.T) {
	p := pool(t)
	type rows struct {
		Index []int
		N     []*int
	}
	of := func(n ...int) (list []*int) {
		for _, one := range n {
			if one == 0 {
				list = append(list, nil)
			} else {
				list = append(list, &one)
			}
		}
		return list
	}
	for step, want := range map[int]rows{1: {[]int{1, 2, 3}, of(20, 0, 40)}, 2: {[]int{0, 2}, of(10, 0)}} {
		table, err := pypoolarrow.Call(t.Context(), p, "rows_with_their_index", args{"step": step})
		require.NoError(t, err)
		got, err := pypool.Call[rows](t.Context(), p, "rows_of", args{"table": pypoolarrow.Table{Table: table}})
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestIntegersThatAFloatRoundsAreRefused(t *testing.T) {
	for _, sign := range []int{1, -1} {
		_, err := pypool.Call[pypool.Array](t.Context(), pool(t), "around_2_53", args{"sign": sign})
		require.ErrorContains(t, err, "rounded")
	}
}

func TestColumnsOfDifferentLengthsAreRefused(t *testing.T) {
	for _, command := range []string{"as_table", "as_batch", "as_reader", "as_pandas", "as_polars", "as_lazy"} {
		_, err := pool(t).ExecuteAnonymous(t.Context(), command, args{"table": map[string]any{"a": [][]int{{1}, {2}, {3}}, "b": []int{1}}})
		require.ErrorIs(t, err, pypool.ErrInvalidArguments, command)
	}
}
