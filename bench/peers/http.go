package peers

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
)

// HTTP posts JSON to Python web servers over connections that are kept alive. Caller i talks to
// server i modulo their number.
type HTTP struct {
	servers   []*process
	addresses []string
	client    *http.Client
}

// NewHTTPServer starts n processes with the standard library's http.server.
func NewHTTPServer(env Env, n int) (*HTTP, error) {
	return newHTTP(env, n, env.Python, "http_server.py")
}

// NewFastAPI starts n processes with FastAPI on uvicorn.
func NewFastAPI(env Env, n int) (*HTTP, error) {
	python, err := env.venv()
	if err != nil {
		return nil, err
	}
	return newHTTP(env, n, python, "fastapi_server.py")
}

func newHTTP(env Env, n int, python, script string) (*HTTP, error) {
	servers, addresses, err := env.serve(n, python, script)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	return &HTTP{servers, addresses, &http.Client{Transport: transport}}, nil
}

func (h *HTTP) Call(caller int, text string) error {
	body, err := json.Marshal(message{text})
	if err != nil {
		return err
	}
	resp, err := h.client.Post("http://"+h.addresses[caller%len(h.addresses)]+"/", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var got message
	if err := json.Unmarshal(data, &got); err != nil {
		return err
	}
	return got.check(text)
}

// Bytes is for [Octets]: it posts them to the first server.
func (h *HTTP) Bytes(way string, body []byte) error {
	url := "http://" + h.addresses[0] + "/" + way
	resp, err := h.client.Post(url, "application/octet-stream", bytes.NewReader(asked(way, body)))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data := make([]byte, max(resp.ContentLength, 0)) // both servers say how long an answer is
	if _, err := io.ReadFull(resp.Body, data); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	return answered(way, body, data)
}

func (h *HTTP) Close() error {
	h.client.CloseIdleConnections()
	return closeAll(h.servers)
}
