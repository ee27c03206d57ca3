package pypool

import (
	"errors"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every method of a pool that New has not made returns: an ErrPoolClosed, or what says nothing.
func TestAPoolThatNewHasNotMade(t *testing.T) {
	t.Parallel()
	for _, p := range []*Pool{nil, {}} {
		v := reflect.ValueOf(p)
		for i := range v.NumMethod() {
			method, name := v.Method(i), v.Type().Method(i).Name
			args := []reflect.Value{}
			for j := range method.Type().NumIn() {
				if in := method.Type().In(j); j == 0 && in.Kind() == reflect.Interface {
					args = append(args, reflect.ValueOf(t.Context()))
				} else if !method.Type().IsVariadic() || j < method.Type().NumIn()-1 {
					args = append(args, reflect.Zero(in))
				}
			}
			var out []reflect.Value
			require.NotPanics(t, func() { out = method.Call(args) }, name)
			last := out[len(out)-1]
			if err, is := last.Interface().(error); is && name != "Close" && name != "Shutdown" {
				require.ErrorIs(t, err, ErrPoolClosed, name)
				var e *Error
				require.True(t, errors.As(err, &e), name)
				continue
			}
			switch last.Kind() {
			case reflect.Func: // Stream
				last.Call([]reflect.Value{reflect.MakeFunc(last.Type().In(0), func(given []reflect.Value) []reflect.Value {
					require.ErrorIs(t, given[1].Interface().(error), ErrPoolClosed)
					return []reflect.Value{reflect.ValueOf(false)}
				})})
			case reflect.Slice, reflect.String:
				require.Zero(t, last.Len(), name)
			default:
				require.True(t, last.IsZero(), name)
			}
		}
	}
}
