package wire

import (
	"fmt"
	"math"
	"reflect"
	"slices"
)

// Payloads: bytes, arrays and values of kinds of their own, which travel as they are beside the
// JSON line that they belong to (docs/protocol.md, "Payloads").
//
//	{"raw":[5,8]}\n  13 bytes  \n  {"id":7,"command":"f","args":{"a":null,"b":[null]},"blobs":[{"at":["a"]},{"at":["b",0],"dtype":"float64","shape":[]}]}\n
//
// In the line a null stands in the place of each. The line is what is committed by its newline, as
// any other is: what stands before it belongs to no request until then.

// Blob is one payload, and what it is.
type Blob struct {
	DType string // of an array; empty: it is none
	Shape []int  // of an array
	Kind  string // of what is neither bytes nor an array
	Data  []byte
	More  [][]byte // of what is sent and lies in several places: what follows Data

	At   int    // of a frame's: where in its body the null stands
	Path []Step // and the way to it
}

// Step is a key of an object, or an index of an array.
type Step struct {
	Key     string
	Index   int
	IsIndex bool
}

// MinBlob is the number of bytes from which on a []byte is a payload. A smaller one costs less as
// base64 in the line: measured, 2 to 4 KiB in and out take as long either way.
const MinBlob = 4 << 10

// minBlob is MinBlob, but in tests.
var minBlob = MinBlob

// SmallestBlob is MinBlob, or what SetMinBlob has made of it.
func SmallestBlob() int { return minBlob }

// SetMinBlob changes MinBlob for a test, which must not run beside others then. It returns what was
// set before.
func SetMinBlob(n int) int {
	old := minBlob
	minBlob = n
	return old
}

// minLent is MinLent, but in tests.
var minLent = MinLent

// SetMinLent changes MinLent for a test, as SetMinBlob does.
func SetMinLent(n int) int {
	old := minLent
	minLent = n
	return old
}

// SmallestLent is MinLent, or what SetMinLent has made of it.
func SmallestLent() int { return minLent }

// ArrayType is pypool.Array: a struct of DType, Shape and Data. The package that has it sets this.
var ArrayType reflect.Type

// Payload is a value that is a payload of a kind of its own, as pypool.Payload says.
type Payload interface {
	PythonPayload() (kind string, data []byte, err error)
}

// PayloadPieces is a Payload that lies in several places, as pypool.PayloadPieces says.
type PayloadPieces interface {
	PythonPayloadPieces() (kind string, pieces [][]byte, err error)
}

var payloadType = reflect.TypeFor[Payload]()

// Sizes are the bytes of one element of each dtype.
var Sizes = map[string]int{
	"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "int32": 4, "uint32": 4, "float32": 4,
	"int64": 8, "uint64": 8, "float64": 8, "complex64": 8, "complex128": 16,
}

// errArray says what is wrong with an array.
type errArray string

func (e errArray) Error() string { return string(e) }

// CheckArray reports what keeps a payload from being an array of that type and shape.
func CheckArray(dtype string, shape []int, size int) error {
	each, ok := Sizes[dtype]
	if !ok {
		return errArray(fmt.Sprintf("there is no dtype %.40q: it is one of NumPy's names of bool, int8 to int64, uint8 to uint64, float16 to float64, complex64, complex128", dtype))
	}
	if len(shape) > 64 {
		return errArray(fmt.Sprintf("a shape of %d dimensions: NumPy has 64 at most", len(shape)))
	}
	total := each
	for _, n := range shape {
		switch {
		case n < 0:
			return errArray(fmt.Sprintf("the shape %v has a negative number", shape))
		case n == 0: // the others are bounded all the same, NumPy has it so
		case total > math.MaxInt/n:
			return errArray(fmt.Sprintf("the shape %v is more than memory holds", shape))
		default:
			total *= n
		}
	}
	if slices.Contains(shape, 0) {
		total = 0
	}
	if total != size {
		return errArray(fmt.Sprintf("%s of shape %v are %d bytes, and it has %d", dtype, shape, total, size))
	}
	return nil
}
