package pypool

import (
	"strings"
	"testing"
	"time"

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

func TestTheFirstAnswerIsFoundBehindAnyBanner(t *testing.T) {
	t.Parallel()
	const answer = `{"id":0,"success":true,"result":"{\"id\":"}`
	for _, banner := range []string{
		"", "Welcome!\n", "loading...", `{"id":1}`, "{{{", "one\ntwo {", `{"id":0,"success":true,"result":1} `, "\xff\n\xfe", strings.Repeat("{", maxBanner-1) + "\n", strings.Repeat(`{"id":`, maxBanner/6), strings.Repeat("{", maxBanner),
	} {
		c := connOf(banner + answer + "\n")
		skipped, err := c.skipBanner([]byte("hello\n"), c.readNext)
		require.NoError(t, err, "%.40q", banner)
		assert.Equal(t, banner, string(skipped))
		var f wire.Frame
		require.NoError(t, c.receive(0, &f))
	}
	c := connOf(` { "success" : true, "result" : 1, "id" : 0 }` + "\n")
	_, err := c.skipBanner([]byte("hello\n"), c.readNext)
	assert.NoError(t, err, "nothing stands before it: it may be spelled in any way")
}

// Whatever stands before an answer is read in a time like that which it took to come.
func TestALongBannerIsRefusedSoon(t *testing.T) {
	t.Parallel()
	const size = 16 << 20
	const begins = `{"id":0,"success":true,"result":[`
	for name, line := range map[string]string{
		"braces":     strings.Repeat("{", size),
		"beginnings": strings.Repeat(`{"id":`, size/6),
		"answers":    strings.Repeat(begins, maxBanner/len(begins)) + `"` + strings.Repeat("x", size),
		"lines":      strings.Repeat("{\n", size/2),
	} {
		refused := make(chan error, 1)
		go func() { // joined by refused, unless that takes hours
			c := connOf(line + "\n" + `{"id":0,"success":true,"result":1}` + "\n")
			c.max = 2 * size
			_, err := c.skipBanner([]byte("hello\n"), c.readNext)
			refused <- err
		}()
		select {
		case err := <-refused:
			assert.Contains(t, detail[*ProtocolError](t, err).Reason, "more than 65536 bytes of output before hello was answered", name)
		case <-time.After(30 * time.Second):
			t.Fatal(name)
		}
	}
}

// Such lines answer nothing: whoever takes what is there, without a deadline, would take them for ever.
func TestAWorkerThatAsksAgainAndAgainToBeReplacedBreaksTheProtocol(t *testing.T) {
	t.Parallel()
	var f wire.Frame
	c := connOf(strings.Repeat(`{"id":1,"retire":"x"}`+"\n", maxAsked) + `{"id":1,"success":true,"result":1}` + "\n" + strings.Repeat(`{"id":2,"retire":"x"}`+"\n", 1000))
	require.NoError(t, c.receive(1, &f))
	v := detail[*ProtocolError](t, c.receive(2, &f))
	assert.Contains(t, v.Reason, "again and again")
}
