package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/net/websocket"
)

// switchable is a health endpoint that tests turn off and on.
type switchable struct{ off atomic.Bool }

func (s *switchable) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		ok, err := strconv.ParseBool(r.FormValue("ok"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.off.Store(!ok)
	}
	if s.off.Load() && r.Method != http.MethodPost {
		http.Error(w, "switched off", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// runHTTP serves who it is and who asks:
//
//	/hostname  the pod's name
//	/client    the address the request came from
//	/env?name= a variable of its environment
//	/file?path= a file of its root
//	/headers?name= a header of the request
//	/readyz, /healthz  200, or 503 after POST ?ok=false
//	/exit?code= ends the process
//	/websocket echoes
//	/wait?for= answers after so long, e.g. 5s
func runHTTP(ctx context.Context, args []string) error {
	var port int
	if err := parse("http", args, func(fs *flag.FlagSet) { fs.IntVar(&port, "port", 8080, "port to serve on") }); err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/hostname", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, host) })
	mux.HandleFunc("/client", func(w http.ResponseWriter, r *http.Request) {
		addr, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, addr)
	})
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, os.Getenv(r.FormValue("name"))) })
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		b, err := os.ReadFile(r.FormValue("path"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		_, _ = w.Write(b)
	})
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get(r.FormValue("name"))) })
	mux.Handle("/websocket", websocket.Handler(func(c *websocket.Conn) { _, _ = io.Copy(c, c) }))
	mux.Handle("/readyz", &switchable{})
	mux.Handle("/healthz", &switchable{})
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	mux.HandleFunc("/exit", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.FormValue("code"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		end(exitStatus(code))
	})
	mux.HandleFunc("/wait", waitHandler)
	err = serve(ctx, &http.Server{Addr: ":" + strconv.Itoa(port), Handler: mux}, tlsFiles{})
	var code exitStatus
	if errors.As(context.Cause(ctx), &code) {
		return code
	}
	return err
}

func waitHandler(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.FormValue("for"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(d):
		fmt.Fprint(w, "done")
	case <-r.Context().Done():
	}
}

// tlsFiles are the paths of a server's certificate and key; without them it
// speaks plain HTTP. clientCA, if any, is who signs the clients let in.
type tlsFiles struct{ cert, key, clientCA string }

func (f *tlsFiles) flags(fs *flag.FlagSet) {
	fs.StringVar(&f.cert, "cert", "/tls/tls.crt", "certificate file")
	fs.StringVar(&f.key, "key", "/tls/tls.key", "key file")
	fs.StringVar(&f.clientCA, "client-ca", "", "file of the CA that clients' certificates must come from")
}

// serve runs srv until ctx ends.
func serve(ctx context.Context, srv *http.Server, f tlsFiles) error {
	if f.clientCA != "" {
		pem, err := os.ReadFile(f.clientCA)
		if err != nil {
			return fmt.Errorf("read client CA: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("client CA %s holds no certificate", f.clientCA)
		}
		srv.TLSConfig = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	}
	ended := make(chan error, 1)
	go func() {
		if f.cert != "" {
			ended <- srv.ListenAndServeTLS(f.cert, f.key)
			return
		}
		ended <- srv.ListenAndServe()
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	limited, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := srv.Shutdown(limited)
	if got := <-ended; !errors.Is(got, http.ErrServerClosed) {
		return errors.Join(err, got)
	}
	return err
}
