package pypool

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/wire"
)

func TestProtocolBadJSONIsATypedErrorThatNamesOffsetAndPreview(t *testing.T) {
	t.Parallel()
	c := connOf(`{"id":1,"success":true;"result":1}` + "\n")
	var f wire.Frame
	err := c.receive(1, &f)
	v := detail[*ProtocolError](t, err)
	assert.Equal(t, "malformed envelope at byte 22", v.Reason)
	assert.Contains(t, v.Sample, `{\"id\":1,\"success\":true;`)
	assert.Error(t, c.inDoubt(), "nothing more is read from it")
	long := connOf(strings.Repeat("x", 5000) + "\n")
	v = detail[*ProtocolError](t, long.receive(1, &f))
	assert.LessOrEqual(t, len(v.Sample), 256+2, "a preview, not the whole")
}

func TestProtocolAMissingKeyIsNamed(t *testing.T) {
	t.Parallel()
	for line, reason := range map[string]string{
		`{"success":true,"result":1}`: "it has no id",
		`{"id":1,"success":true}`:     "success is true, and it has not just a result",
		`{"id":1,"success":false}`:    "success is false, and it has not just an error",
		`{"id":1,"result":1}`:         "it has no success",
	} {
		var f wire.Frame
		v := detail[*ProtocolError](t, connOf(line+"\n").receive(1, &f))
		assert.Contains(t, v.Reason, reason)
		assert.Equal(t, quoteSample([]byte(line)), v.Sample)
	}
}

func TestTheReadBufferIsGivenAwayWithALargeResultAndNeverSharedWithTheNext(t *testing.T) {
	t.Parallel()
	big := `"` + strings.Repeat("a", 3*largeFrame) + `"`
	c := connOf(`{"id":1,"success":true,"result":` + big + "}\n" + `{"id":2,"success":true,"result":"` + strings.Repeat("b", 100) + `"}` + "\n")
	var f wire.Frame
	require.NoError(t, c.receive(1, &f))
	first := c.take(&f)
	require.NoError(t, c.receive(2, &f))
	second := c.take(&f)
	assert.Equal(t, big, string(first))
	assert.Equal(t, `"`+strings.Repeat("b", 100)+`"`, string(second))
	assert.Less(t, len(c.buf), largeFrame, "the large buffer is not kept")
	_ = append(first, 'x')
	assert.Equal(t, len(first), cap(first))
}

func TestALineBeyondTheLimitIsAViolationAndIsNotReadToItsEnd(t *testing.T) {
	t.Parallel()
	c := connOf(strings.Repeat("y", 10<<20))
	c.max = 1024 + frameSlack
	var f wire.Frame
	v := detail[*ProtocolError](t, c.receive(1, &f))
	assert.Contains(t, v.Reason, "more than")
	assert.Less(t, len(c.buf), 1<<20)
}
