package wire

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

type (
	base     struct{ Inner []byte }
	shadowed struct {
		Data []byte
		Text string `json:"data2"`
	}
	record struct {
		base
		*shadowed
		Data   []byte `json:"data"`
		Hidden []byte `json:"-"`
		//lint:ignore SA5008 it is what encoding/json makes of it that is tested
		Dash  []byte `json:"-,"`
		Empty []byte `json:"empty,omitempty"`
		//lint:ignore SA5008 the same
		Odd []byte `json:"a\"b"`
		//lint:ignore U1000 encoding/json leaves it out
		private []byte
	}
)

// jsonMembers agrees with encoding/json about which field a name means, whatever is embedded in
// what.
func TestJSONMembers(t *testing.T) {
	type A struct{ X, Y []byte }
	type B struct {
		X []byte
		Z []byte `json:"Y"`
	}
	type C struct {
		A
		*B
		X []byte `json:"C"`
	}
	type D struct {
		C `json:"named"`
		A
	}
	type twice1 struct{ A }
	type twice2 struct{ A }
	type E struct {
		twice1
		twice2
	}
	for _, v := range []any{A{}, B{}, C{B: &B{}}, D{C: C{B: &B{}}}, E{}, record{shadowed: &shadowed{}, Empty: []byte{1}}} {
		data, err := json.Marshal(v)
		require.NoError(t, err)
		var wrote map[string]any
		require.NoError(t, json.Unmarshal(data, &wrote))
		var names []string
		for _, m := range jsonMembers(reflect.TypeOf(v)) {
			names = append(names, m.name)
		}
		slices.Sort(names)
		require.Equal(t, slices.Sorted(maps.Keys(wrote)), names, "%T", v)
	}
}
