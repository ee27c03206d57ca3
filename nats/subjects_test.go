package pypoolnats

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// Who may publish to one command's subject calls that command, whatever the request says.
func TestPermissionsAreByCommand(t *testing.T) {
	t.Parallel()
	b := newBroker(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "all", Password: "p"},
			{Username: "adds", Password: "p", Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Allow: []string{"pypool.test.call.add", "pypool.test.jobs.add", "pypool.test.all", "pypool.test.one.>", "$JS.>"}},
				Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
			}},
			{Username: "serves", Password: "p", Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
				Subscribe: &server.SubjectPermission{Allow: []string{"pypool.test.>", "$SRV.>"}},
			}},
			{Username: "hears nothing", Password: "p", Permissions: &server.Permissions{
				Subscribe: &server.SubjectPermission{Deny: []string{"_INBOX.>"}},
			}},
		}
	})
	as := func(user string) *nats.Conn {
		return b.connect(t, nats.UserInfo(user, "p"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	}
	all, adds := as("all"), as("adds")
	p := newPool(t, config(1))
	s, err := Serve(as("serves"), "test", p, WithLogger(silent))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	var ping micro.Ping
	m, err := all.Request("$SRV.PING.test", nil, 10*time.Second)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(m.Data, &ping))
	require.Equal(t, s.ID(), ping.ID)
	c := NewClient(adds, "test", WithLostAfter(lostSoon), WithRetry(Retry{Attempts: 1}))
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	sum, err := pypool.Call[int](t.Context(), c, "add", []any{1})
	require.NoError(t, err)
	require.Equal(t, 2, sum)
	_, err = pypool.Call[int](t.Context(), c, "add", []any{strings.Repeat("x", 3<<20)})
	require.ErrorIs(t, err, pypool.ErrPython, "it goes in parts")
	_, err = pypool.Call[any](t.Context(), c, "fail", []any{"it ran"})
	failure(t, err, pypool.ErrPoolClosed)
	require.ErrorIs(t, err, nats.ErrPermissionViolation, "the server drops what may not be published")
	require.ErrorContains(t, err, `Permissions Violation for Publish to "pypool.test.call.fail"`)
	deaf := NewClient(as("hears nothing"), "test", WithLostAfter(lostSoon), WithRetry(Retry{Attempts: 1}))
	t.Cleanup(func() { require.NoError(t, deaf.Close()) })
	_, err = pypool.Call[int](t.Context(), deaf, "add", []any{1})
	require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrPoolClosed).Delivery)
	require.ErrorContains(t, err, `Permissions Violation for Subscription to "_INBOX.`)
	for range 2 {
		_, err = Serve(adds, "test", p, WithLogger(silent))
		require.ErrorIs(t, err, nats.ErrPermissionViolation)
		require.ErrorContains(t, err, `pypoolnats: nats: permissions violation: Permissions Violation for Subscription to "pypool.test.call.*"`)
	}

	const subject = "pypool.test.call.add"
	require.Equal(t, "42", string(raw(t, adds, subject, "1.0", `{"command":"fail"}`, []byte(`[40,2]`)).Data))
	e, err := pypool.DecodeError(raw(t, adds, subject, "1.0", `{"command":"execute_program","program":"double"}`, []byte(`[1]`)).Data)
	require.NoError(t, err)
	require.ErrorIs(t, e, pypool.ErrInvalidArguments)
	require.Equal(t, pypool.NotExecuted, e.Delivery)
	require.Contains(t, e.Message, `a program is called through execute_program, and the request's subject is that of "add"`)

	require.NoError(t, b.srv.GlobalAccount().AddMapping("pypool.test.call.plus", "pypool.test.call.add"))
	every := NewClient(all, "test")
	t.Cleanup(func() { require.NoError(t, every.Close()) })
	sum, err = pypool.Call[int](t.Context(), every, "plus", []any{1})
	require.NoError(t, err, "a subject mapping has another command called")
	require.Equal(t, 2, sum)
}

// A mapping to another name has NATS ask for the permissions of that name: of its command, and of what concerns a call
// that its instances have. A client without the latter is told so, instead of waiting for ever.
func TestAMappingToAnotherNameNeedsItsPermission(t *testing.T) {
	t.Parallel()
	own := []string{"pypool.test.call.>", "pypool.test.all", "pypool.test.one.>"}
	narrow := append([]string{"pypool.gpu.call.>"}, own...)
	b := newBroker(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "serves", Password: "p"},
			{Username: "none", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: own}}},
			{Username: "narrow", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: narrow}}},
			{Username: "wide", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: append([]string{"pypool.gpu.one.>"}, narrow...)}}},
		}
	})
	for _, command := range []string{"add", "big", "count", "length"} {
		require.NoError(t, b.srv.GlobalAccount().AddMapping("pypool.test.call."+command, "pypool.gpu.call."+command))
	}
	as := func(user string) *nats.Conn {
		return b.connect(t, nats.UserInfo(user, "p"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	}
	s, err := Serve(as("serves"), "gpu", newPool(t, config(2)), WithLogger(silent))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // else what hangs would do so for ever
	defer cancel()
	none := NewClient(as("none"), "test", WithLostAfter(lostSoon), WithRetry(Retry{Attempts: 1}))
	t.Cleanup(func() { require.NoError(t, none.Close()) })
	_, err = pypool.Call[int](ctx, none, "add", []any{1})
	require.ErrorIs(t, err, nats.ErrPermissionViolation)
	require.ErrorContains(t, err, `Permissions Violation for Publish to "pypool.gpu.call.add"`)
	for _, user := range []string{"wide", "narrow"} {
		t.Run(user, func(t *testing.T) {
			c := NewClient(as(user), "test", WithLostAfter(lostSoon))
			t.Cleanup(func() { require.NoError(t, c.Close()) })
			check := func(err error, delivery pypool.Delivery) {
				t.Helper()
				if user == "wide" {
					require.NoError(t, err)
					return
				}
				require.Equal(t, delivery, failure(t, err, pypool.ErrPoolClosed).Delivery)
				require.ErrorIs(t, err, nats.ErrPermissionViolation)
				require.ErrorContains(t, err, `Permissions Violation for Publish to "pypool.gpu.one.`+s.ID())
			}
			stream := func(n, size int) error {
				got := 0
				for _, err := range c.Stream(ctx, "count", args{"n": n, "size": size}) {
					if err != nil {
						return err
					}
					got++
				}
				require.Equal(t, n, got)
				return nil
			}
			require.NoError(t, stream(10, 0))
			_, err := pypool.Call[int](ctx, c, "length", []any{strings.Repeat("x", 1500<<10)})
			check(err, pypool.NotExecuted)
			_, err = pypool.Call[int](ctx, c, "length", []any{strings.Repeat("x", 3<<20)})
			check(err, pypool.NotExecuted)
			_, err = pypool.Call[string](ctx, c, "big", []any{1500 << 10})
			require.NoError(t, err, "it needs no credit")
			_, err = pypool.Call[string](ctx, c, "big", []any{3 << 20})
			check(err, pypool.MaybeExecuted)
			_, err = pypool.Call[int](ctx, c, "add", []any{1})
			require.NoError(t, err)
			check(stream(1000, 0), pypool.MaybeExecuted)
			check(stream(10, 300<<10), pypool.MaybeExecuted)
		})
	}
}

func TestAJobIsOfItsSubjectsCommand(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	js := stream(t, b)
	ctx := patient(t)
	require.NoError(t, CreateJobs(ctx, js, "test", JobStore{}))
	for id, ctl := range map[string]control{"a": {Command: "fail"}, "b": {}, "c": {Command: commandProgram, Program: "double"}} {
		m := ctl.message("pypool.test.jobs.add", "", []byte("[1]"))
		m.Header.Set(nats.MsgIdHdr, id)
		_, err := js.PublishMsg(ctx, m)
		require.NoError(t, err)
	}
	work(t, b, newPool(t, config(1)))
	for _, id := range []string{"a", "b"} {
		res, err := OpenJob(js, "test", id).Wait(ctx)
		require.NoError(t, err)
		require.JSONEq(t, "2", string(res.Raw()))
	}
	_, err := OpenJob(js, "test", "c").Wait(ctx)
	require.Equal(t, pypool.NotExecuted, failure(t, err, pypool.ErrInvalidArguments).Delivery)
}

// Long names take room in a message, too.
func TestLongNamesBesideLargeArguments(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPool(t, config(1))
	serve(t, b, "test", p)
	c := client(t, b, "test")
	nc := b.connect(t)
	session := strings.Repeat("é", 100)
	for _, size := range []int{0, 100, room / 2, room} {
		_, err := c.ExecuteProgram(t.Context(), strings.Repeat("<", maxProgram), args{"x": strings.Repeat("x", int(nc.MaxPayload())-room-size)}, pypool.WithSession(session))
		failure(t, err, pypool.ErrUnknownCommand)
	}
	js := stream(t, b)
	_, err := EnqueueProgram(patient(t), js, "test", strings.Repeat("<", maxProgram), args{"x": strings.Repeat("x", int(nc.MaxPayload())-room-100)})
	failure(t, err, pypool.ErrMessageTooLarge)
}

// A call that is interrupted again and again, and hears of its server between, is not interrupted
// for a minute; and silence counts while somebody listens.
func TestInterruptionsAreCountedApart(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	nc := b.connect(t)
	c := NewClient(nc, "test", WithLostAfter(patience*maxAlive))
	p := &pending{begun: time.Now().Add(-24 * time.Hour)} // and nothing was heard
	a := &attempt{c: c, p: p, r: &request{item: func(pypool.Result) bool { return true }}, ctx: t.Context(), head: control{Kind: kindItem}}
	require.Nil(t, a.watch(), "nobody has watched meanwhile, as on a machine that was suspended")
	a.silentFrom = 0
	require.ErrorContains(t, a.watch(), "the call's server is lost")
	_, _, err := a.whole()
	require.Nil(t, err)
	require.Nil(t, a.watch(), "the loop's body has run until now")
	b.stop()
	eventually(t, "the connection is interrupted", func() bool { return !nc.IsConnected() })
	for range 3 {
		require.Nil(t, a.watch())
		p.heard.Store(int64(time.Since(p.begun)))
	}
	require.Nil(t, a.watch())
	require.ErrorContains(t, a.watch(), "the connection has been interrupted for 1m0s")
}
