package peers

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
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

// Bytes posts octets to the first server's path: in, which answers with their number, out, which
// answers with as many, or echo.
func (h *HTTP) Bytes(path string, body []byte) error {
	url, send := "http://"+h.addresses[0]+"/"+path, body
	if path == "out" {
		send = []byte(strconv.Itoa(len(body)))
	}
	resp, err := h.client.Post(url, "application/octet-stream", bytes.NewReader(send))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if path == "in" {
		data, err := io.ReadAll(resp.Body)
		if err == nil && string(data) != strconv.Itoa(len(body)) {
			err = errors.New("another number of bytes: " + string(data))
		}
		return err
	}
	data := make([]byte, len(body))
	if _, err := io.ReadFull(resp.Body, data); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func (h *HTTP) Close() error {
	h.client.CloseIdleConnections()
	return closeAll(h.servers)
}
