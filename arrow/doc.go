// Package pypoolarrow has tables cross between Go and Python: what is an [arrow.Table] or an
// [arrow.RecordBatch] here is a pyarrow.Table or RecordBatch there, or a DataFrame of pandas or
// polars.
//
//	table, err := pypoolarrow.Call(ctx, pool, "summarize", map[string]any{"trips": pypoolarrow.Table{Table: trips}})
//
//	@command
//	def summarize(trips: pandas.DataFrame) -> pandas.DataFrame:
//	    return trips.groupby("city", as_index=False).sum()
//
// An argument that is a [Table] or a [RecordBatch], at any depth, is a table for the handler: of
// the class that the parameter's hint names, pyarrow's where it names none. What a handler returns
// or yields may be a table of any of the three libraries: [Call] and [Each] give it as Arrow's own,
// and a Table or a RecordBatch in the Out of pypool.Call, Each and Map takes it where it stands.
// They travel as Arrow IPC streams, beside the JSON of the call, whatever the [pypool.Caller] is.
//
// Memory is Go's own, and no C library's: what nobody refers to any more is garbage, and Retain and
// Release need not be called. Arguments are the caller's all the time, and are read only until the
// call has returned. Results are the caller's alone, with one reference; whoever counts references
// may release them. The columns of one result share the memory that it came in.
//
// What comes is checked before it is given out: a stream that is cut off, or whose offsets and
// indices point elsewhere, is an ErrDecode, and cannot panic later.
package pypoolarrow
