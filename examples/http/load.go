package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
)

// tally is how a load went. The statuses and the failed requests add up to those sent.
type tally struct {
	status map[int]int
	right  int   // answers that belong to the question asked
	failed int   // requests without an answer
	err    error // those failures, and the wrong answers, joined
}

// load sends requests from several clients at once, each client in a session of its own, and checks
// every answer.
func load(ctx context.Context, client *http.Client, url string, requests, clients int) tally {
	got := tally{status: map[int]int{}}
	var mu sync.Mutex // guards got
	var next atomic.Int64
	var group sync.WaitGroup
	for c := range clients {
		group.Go(func() {
			for n := next.Add(1); n <= int64(requests); n = next.Add(1) {
				status, right, err := ask(ctx, client, url, fmt.Sprintf("client-%d", c), n)
				mu.Lock()
				if status != 0 {
					got.status[status]++
				} else {
					got.failed++
				}
				if right {
					got.right++
				}
				got.err = errors.Join(got.err, err)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return got
}

// ask sends one text that no other request has, and knows the one right summary of it.
func ask(ctx context.Context, client *http.Client, url, session string, n int64) (status int, right bool, err error) {
	want := fmt.Sprintf("Request %d asks of request %d.", n, n)
	body, err := json.Marshal(request{Text: "It is so. " + want + " And that was all.", Sentences: 1})
	if err != nil {
		return 0, false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/summarize", bytes.NewReader(body))
	if err != nil {
		return 0, false, err
	}
	req.Header.Set(sessionHeader, session)
	resp, err := client.Do(req)
	if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	var out summary
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return resp.StatusCode, false, err
	}
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, false, nil
	}
	if len(out.Sentences) != 1 || out.Sentences[0] != want || out.Words != 13 {
		return resp.StatusCode, false, fmt.Errorf("request %d got %+v", n, out)
	}
	return resp.StatusCode, true, nil
}
