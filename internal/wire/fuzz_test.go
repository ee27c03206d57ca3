package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzEnvelope holds the envelope scanner against encoding/json: it never panics, and what it
// accepts is valid to encoding/json too, with the same id and the same body, and is exactly one of
// a result, an error, an item and a function's call.
func FuzzEnvelope(f *testing.F) {
	for _, line := range []string{
		`{"id":1,"success":true,"result":null}`, `{"id":18446744073709551615,"success":false,"error":{"kind":"x"}}`, `{"id":7,"item":[1,2.5e-3,"\u2028"]}`,
		`{"id":1,"ID":2,"success":true,"result":1}`, `{"id":1,"id":1,"item":1}`, ` { "id" : 1 , "success" : true , "result" : { } } `, `{"id":01,"item":1}`,
		`{"id":1,"success":true,"result":9007199254740993}`, `{"id":1,"item":"` + "\xff" + `"}`, `{"id":1,"item":"\ud800"}`, `{"id":1,"item":1}{}`, `{"id":-1,"item":1}`,
		`{"id":7,"host":3,"function":"f","args":{"a":[1]}}`, `{"id":7,"host":3,"function":"\u0066","trace":"00-a"}`, `{"id":1.0,"item":1}`, `{"i\u0064":1,"item":1}`, `{"id":1,"success":true,"result":1,"error":{}}`, `{"id":1,"item":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `}`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var got Frame
		if err := Parse(line, &got); err != nil {
			return
		}
		if !utf8.Valid(line) || !json.Valid(line) {
			t.Fatalf("accepted what is not JSON: %q", line)
		}
		dec := json.NewDecoder(bytes.NewReader(line))
		_, _ = dec.Token()
		fields := map[string]json.RawMessage{}
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				t.Fatal(err)
			}
			var value json.RawMessage
			if err := dec.Decode(&value); err != nil {
				t.Fatal(err)
			}
			if _, twice := fields[key.(string)]; twice {
				t.Fatalf("accepted the key %q twice: %q", key, line)
			}
			fields[key.(string)] = value
		}
		var id uint64
		if err := json.Unmarshal(fields["id"], &id); err != nil || id != got.ID {
			t.Fatalf("id %d, encoding/json has %d (%v): %q", got.ID, id, err, line)
		}
		if got.Kind == KindFunction {
			var host uint64
			if err := json.Unmarshal(fields["host"], &host); err != nil || host != got.Host || host == 0 || !bytes.Equal(fields["function"], got.Function) || !bytes.Equal(fields["args"], got.Body) || !bytes.Equal(fields["trace"], got.Trace) {
				t.Fatalf("%q is taken for call %d of %s with %s, of %s", line, got.Host, got.Function, got.Body, got.Trace)
			}
			keys := 3
			for _, key := range [][]byte{got.Body, got.Trace} {
				if key != nil {
					keys++
				}
			}
			if len(fields) != keys {
				t.Fatalf("accepted %d keys: %q", len(fields), line)
			}
			return
		}
		body, keys := "result", 3
		switch got.Kind {
		case KindError:
			body = "error"
		case KindItem:
			body, keys = "item", 2
		}
		if len(fields) != keys || !bytes.Equal(fields[body], got.Body) {
			t.Fatalf("%q is taken for a %s with body %q", line, body, got.Body)
		}
		if keys == 3 && string(fields["success"]) != fmt.Sprint(got.Kind == KindResult) {
			t.Fatalf("success is %s: %q", fields["success"], line)
		}
	})
}
