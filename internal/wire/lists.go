package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
)

// lister writes an array as lists, as Python's tolist does.
type lister struct {
	b       []byte
	blob    *Blob
	at      int    // in the data
	lacking string // what stands for NaN and the infinities, which JSON lacks; empty: an error
	bigInt  bool
	err     error
}

func (w *lister) list(dim int) {
	if dim == len(w.blob.Shape) {
		w.element()
		return
	}
	w.b = append(w.b, '[')
	for i := 0; i < w.blob.Shape[dim] && w.err == nil; i++ {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.list(dim + 1)
	}
	w.b = append(w.b, ']')
}

// Lists is how many lists the array is, those within others included; 0 where it is none, and
// math.MaxInt where it would be more.
func (blob *Blob) Lists() (lists int) {
	within := 1
	for _, n := range blob.Shape {
		if lists > math.MaxInt-within {
			return math.MaxInt
		}
		lists += within
		if within *= n; n == 0 {
			break
		}
	}
	return lists
}

func (w *lister) element() {
	size := Sizes[w.blob.DType]
	data := w.blob.Data[w.at : w.at+size]
	w.at += size
	switch w.blob.DType {
	case "bool":
		w.b = strconv.AppendBool(w.b, data[0] != 0)
	case "complex64", "complex128":
		if w.lacking == "" {
			w.err = fmt.Errorf("JSON has no complex numbers: decode them into a pypool.Array")
			return
		}
		w.b = append(w.b, '[')
		half := size / 2
		w.float(FloatAt(data[:half]))
		w.b = append(w.b, ',')
		w.float(FloatAt(data[half:]))
		w.b = append(w.b, ']')
	case "float16", "float32", "float64":
		w.float(FloatAt(data))
	case "uint8", "uint16", "uint32", "uint64":
		n := UintAt(data)
		w.bigInt = w.bigInt || n >= 1e15
		w.b = strconv.AppendUint(w.b, n, 10)
	default:
		n := IntAt(data)
		w.bigInt = w.bigInt || n >= 1e15 || n <= -1e15
		w.b = strconv.AppendInt(w.b, n, 10)
	}
}

func (w *lister) float(f float64) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		if w.lacking == "" {
			w.err = fmt.Errorf("%v is not JSON: decode the array into a pypool.Array", f)
		}
		w.b = append(w.b, w.lacking...)
		return
	}
	start := len(w.b)
	w.b = strconv.AppendFloat(w.b, f, 'g', -1, 64)
	for _, c := range w.b[start:] {
		if c == '.' || c == 'e' {
			return
		}
	}
	w.b = append(w.b, ".0"...) // as Python has it
}

// UintAt, IntAt and FloatAt are the number that data is.
func UintAt(data []byte) uint64 {
	switch len(data) {
	case 1:
		return uint64(data[0])
	case 2:
		return uint64(binary.LittleEndian.Uint16(data))
	case 4:
		return uint64(binary.LittleEndian.Uint32(data))
	}
	return binary.LittleEndian.Uint64(data)
}

// IntAt: see UintAt.
func IntAt(data []byte) int64 {
	shift := 64 - 8*len(data)
	return int64(UintAt(data)<<shift) >> shift
}

// FloatAt: see UintAt.
func FloatAt(data []byte) float64 {
	switch len(data) {
	case 2:
		return halfFloat(binary.LittleEndian.Uint16(data))
	case 4:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(data)))
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(data))
}

// halfFloat is a number of IEEE 754's binary16.
func halfFloat(bits uint16) float64 {
	sign := 1.0
	if bits>>15 == 1 {
		sign = -1
	}
	exponent, fraction := int(bits>>10&0x1f), float64(bits&0x3ff)
	switch exponent {
	case 0:
		return sign * math.Ldexp(fraction, -24)
	case 0x1f:
		if fraction != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	}
	return sign * math.Ldexp(1024+fraction, exponent-25)
}
