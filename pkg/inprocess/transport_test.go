package inprocess

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func client(h http.HandlerFunc) *http.Client {
	return &http.Client{Transport: &Transport{Handler: func() (http.Handler, error) { return h, nil }}}
}

func TestRequestAndResponse(t *testing.T) {
	c := client(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("X-Path", r.URL.Path+"?"+r.URL.RawQuery)
		w.WriteHeader(http.StatusTeapot)
		w.Header().Set("X-Late", "not sent")
		_, _ = w.Write(append([]byte("got "), body...))
	})
	resp, err := c.Post("http://api/a/b?c=d", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusTeapot || string(body) != "got hello" || resp.Header.Get("X-Path") != "/a/b?c=d" {
		t.Errorf("got %d %q %v", resp.StatusCode, body, resp.Header)
	}
	if resp.Header.Get("X-Late") != "" {
		t.Error("a header set after WriteHeader was sent")
	}
}

func TestStreamAndCloseCancelsHandler(t *testing.T) {
	ended := make(chan error, 1)
	c := client(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, "first\n")
		<-r.Context().Done()
		_, err := io.WriteString(w, "second\n")
		ended <- err
	})
	resp, err := c.Get("http://api/watch")
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || line != "first\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, errBodyClosed) {
		t.Errorf("write after close: %v", err)
	}
}

func TestCancelBeforeHeader(t *testing.T) {
	entered, ended := make(chan struct{}), make(chan struct{})
	c := client(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://api/slow", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err == nil {
		resp.Body.Close()
		t.Fatal("no error after cancel")
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-ended
}

func TestPanicBreaksTheBody(t *testing.T) {
	c := client(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "part")
		panic(http.ErrAbortHandler)
	})
	resp, err := c.Get("http://api/panic")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("a panic looked like a complete body")
	}
}

func TestNoHandlerYet(t *testing.T) {
	notYet := errors.New("not started")
	c := &http.Client{Transport: &Transport{Handler: func() (http.Handler, error) { return nil, notYet }}}
	resp, err := c.Get("http://api/")
	if err == nil {
		resp.Body.Close()
	}
	if !errors.Is(err, notYet) {
		t.Errorf("got %v", err)
	}
}
