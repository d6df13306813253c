// Package inprocess carries HTTP requests to a handler in the same process: an http.RoundTripper that calls an
// http.Handler directly, with streaming bodies and cancellation, but without sockets, TLS or framing.
//
// It is not an HTTP stack: connections cannot be hijacked, so protocol upgrades (exec, port-forward) need a real
// connection. It authenticates nobody by itself; whoever builds a Transport decides what the handler sees in the
// request's context.
//
// Each request runs its handler in a goroutine that ends when the handler returns; closing the response's body or
// cancelling the request's context cancels the handler's context.
package inprocess

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// errBodyClosed is what a handler gets from Write after the client closed the response's body, as a server's handler
// gets one after its connection broke.
var errBodyClosed = fmt.Errorf("response body closed by the in-process client: %w", context.Canceled)

// Transport is an http.RoundTripper onto a handler. All fields are set before the first use and not changed after.
type Transport struct {
	// Handler returns the handler, or an error while there is none (not started yet, or stopped).
	Handler func() (http.Handler, error)
	// Context, when not nil, derives the context that the handler sees, for example to name the caller.
	Context func(context.Context) context.Context
}

// RoundTrip runs the handler and returns as soon as it has written its header. The request is not modified.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	handler, err := t.Handler()
	if err != nil {
		closeBody(req.Body)
		return nil, fmt.Errorf("call %s in-process: %w", req.URL.Path, err)
	}
	ctx, cancel := context.WithCancel(req.Context())
	if t.Context != nil {
		ctx = t.Context(ctx)
	}
	body, pipe := io.Pipe()
	w := &responseWriter{header: http.Header{}, pipe: pipe, wroteHeader: make(chan struct{}), ctx: ctx}
	go func() {
		defer cancel()
		defer closeBody(req.Body)
		w.finish(serve(handler, w, serverRequest(ctx, req)))
	}()

	select {
	case <-w.wroteHeader:
		return w.response(req, &responseBody{PipeReader: body, cancel: cancel}), nil
	case <-req.Context().Done():
		cancel()
		body.CloseWithError(errBodyClosed)
		return nil, context.Cause(req.Context())
	}
}

// serverRequest is req as a server would hand it to a handler.
func serverRequest(ctx context.Context, req *http.Request) *http.Request {
	r := req.Clone(ctx)
	r.RequestURI = req.URL.RequestURI()
	r.RemoteAddr = "127.0.0.1:0"
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	if r.Host == "" {
		r.Host = req.URL.Host
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	return r
}

// serve runs the handler and turns a panic into an error, as net/http's server ends the connection.
func serve(h http.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("in-process handler of %s ended: %v", r.URL.Path, p)
		}
	}()
	h.ServeHTTP(w, r)
	return nil
}

func closeBody(body io.Closer) {
	if body != nil {
		// The request's body belongs to the caller; its close error has no reader (http.RoundTripper's contract).
		_ = body.Close()
	}
}

// responseBody is the client's end: closing it tells the handler that nobody reads any more.
type responseBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

// Close cancels the handler's context. It never fails.
func (b *responseBody) Close() error {
	b.cancel()
	return b.CloseWithError(errBodyClosed)
}

// responseWriter is the handler's end.
type responseWriter struct {
	header      http.Header
	pipe        *io.PipeWriter
	wroteHeader chan struct{} // closed once status and sent are set
	ctx         context.Context

	once   sync.Once
	status int
	sent   http.Header // the header as it was when it was written
}

func (w *responseWriter) Header() http.Header { return w.header }

func (w *responseWriter) WriteHeader(status int) {
	if status >= 100 && status < 200 { // informational: nothing a client here waits for
		return
	}
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.wroteHeader)
	})
}

func (w *responseWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.pipe.Write(p)
}

// Flush is immediate: nothing is buffered.
func (w *responseWriter) Flush() { w.WriteHeader(http.StatusOK) }

// CloseNotify is deprecated, but k8s.io/apiserver passes Flush on only from a writer that has it too
// (pkg/endpoints/responsewriter/wrapper.go:71).
func (w *responseWriter) CloseNotify() <-chan bool {
	gone := make(chan bool, 1)
	context.AfterFunc(w.ctx, func() { gone <- true })
	return gone
}

// finish ends the body: with io.EOF when the handler returned, else with its error.
func (w *responseWriter) finish(err error) {
	if err != nil {
		w.header = http.Header{}
		w.WriteHeader(http.StatusInternalServerError)
	}
	w.WriteHeader(http.StatusOK)
	w.pipe.CloseWithError(err)
}

func (w *responseWriter) response(req *http.Request, body io.ReadCloser) *http.Response {
	return &http.Response{
		Status:        http.StatusText(w.status),
		StatusCode:    w.status,
		Proto:         "HTTP/2.0",
		ProtoMajor:    2,
		Header:        w.sent,
		Body:          body,
		ContentLength: -1,
		Request:       req,
	}
}
