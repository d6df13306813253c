package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Config is what a Server needs.
type Config struct {
	// Dir is the run directory; DefaultDir when empty.
	Dir string
	// Status describes the process; it is called for every request, from several
	// goroutines at once, and must not block.
	Status func() Status
	// Stop asks the process to stop and returns at once; it may be called often.
	Stop func()
	// EndPods has the next stop end the pods as well, each of which gets no longer
	// than grace; 0 is as long as it asks for.
	EndPods func(grace time.Duration)
	// Compact deletes the datastore's history and returns when that is done; nil
	// where there is no datastore.
	Compact func(context.Context) error
	// SyncToken tells other servers of a token that was rotated here; nil where
	// there is none to tell.
	SyncToken func(context.Context) error
	// RemoveMember takes the etcd members of a node out of their cluster and returns
	// their names; nil where there is no such cluster.
	RemoveMember func(ctx context.Context, node string) ([]string, error)
	// Logger gets a line for each stop request.
	Logger *slog.Logger
}

// Server answers on the control socket. Add it to the group first and without
// dependencies, and everything else after it: then it is the last to stop, and
// `knarr stop` can name the component that takes its time.
type Server struct {
	config Config

	mu   sync.Mutex
	lock *os.File // the locked pid file; nil before Prepare and after Run
}

// New returns a Server that has touched nothing yet.
func New(config Config) *Server {
	if config.Dir == "" {
		config.Dir = DefaultDir
	}
	return &Server{config: config}
}

// Name is the component's name in status and logs.
func (s *Server) Name() string { return "control" }

// ErrRunning is part of the error that Prepare gives when another knarr process
// already uses the run directory.
var ErrRunning = errors.New("knarr is already running on this host")

// Prepare takes the lock that makes this the only knarr process of the host, and
// writes the pid file. A file that a killed process left is taken over.
func (s *Server) Prepare(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock != nil {
		return nil
	}
	if err := os.MkdirAll(s.config.Dir, 0o755); err != nil {
		return fmt.Errorf("create run directory: %w", err)
	}
	path := PIDPath(s.config.Dir)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("open pid file: %w", err)
	}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		defer file.Close()
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return fmt.Errorf("%w%s: stop it with `knarr stop`, or give this one another host",
				ErrRunning, holder(path))
		}
		return fmt.Errorf("lock pid file %s: %w", path, err)
	}
	if err := writePID(file); err != nil {
		file.Close()
		return fmt.Errorf("write pid file %s: %w", path, err)
	}
	s.lock = file
	return nil
}

// writePID replaces the file's content. No rename here: the lock is on the inode.
func writePID(file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// holder is " (pid 12)" when the pid file at path names one.
func holder(path string) string {
	data, err := os.ReadFile(path)
	pid := strings.TrimSpace(string(data))
	if err != nil || pid == "" {
		return ""
	}
	return " (pid " + pid + ")"
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context, ready func()) error {
	if err := s.Prepare(ctx); err != nil {
		return err
	}
	defer s.release()
	listener, err := listen(SocketPath(s.config.Dir))
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	ready()
	select {
	case err := <-served:
		return fmt.Errorf("serve control socket: %w", err)
	case <-ctx.Done():
	}
	// A request takes no time, so what is still open after a second is idle.
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		err = server.Close()
		if err != nil {
			return fmt.Errorf("close control socket: %w", err)
		}
	}
	<-served
	return nil
}

// release gives up the lock; the file stays, since removing it would let two
// processes lock two files of the same name.
func (s *Server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return
	}
	if err := s.lock.Close(); err != nil {
		s.config.Logger.Error("close pid file", "error", err)
	}
	s.lock = nil
}

// listen makes the socket under a name of its own and renames it, so that it is
// never reachable with another mode than 0600 and a leftover of a killed process
// is replaced. The lock taken before makes sure that it is a leftover.
func listen(path string) (net.Listener, error) {
	fresh := filepath.Join(filepath.Dir(path), "."+socketName+".new")
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove leftover control socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	listener.SetUnlinkOnClose(false) // it has another name by then
	err = os.Chmod(fresh, 0o600)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		listener.Close()
		return nil, fmt.Errorf("put control socket in place: %w", err)
	}
	return unlinking{listener, path}, nil
}

// unlinking removes the socket's name when it is closed.
type unlinking struct {
	net.Listener
	path string
}

func (u unlinking) Close() error {
	if err := os.Remove(u.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, u.Listener.Close())
	}
	return u.Listener.Close()
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		s.reply(w, http.StatusOK, s.config.Status())
	})
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, _ *http.Request) {
		s.config.Logger.Info("stop was asked for on the control socket")
		s.reply(w, http.StatusAccepted, StopReply{PID: os.Getpid()})
		s.config.Stop()
	})
	mux.HandleFunc("POST /pods/end", func(w http.ResponseWriter, r *http.Request) {
		grace, err := time.ParseDuration(r.URL.Query().Get("grace"))
		if err != nil || grace < 0 {
			http.Error(w, fmt.Sprintf("grace %q: want a duration that is not negative", r.URL.Query().Get("grace")), http.StatusBadRequest)
			return
		}
		s.config.Logger.Info("the next stop ends the pods too", "grace", grace)
		s.config.EndPods(grace)
		s.reply(w, http.StatusAccepted, StopReply{PID: os.Getpid()})
	})
	mux.HandleFunc("POST /token/sync", func(w http.ResponseWriter, r *http.Request) {
		if s.config.SyncToken != nil {
			if err := s.config.SyncToken(r.Context()); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
		}
		s.reply(w, http.StatusOK, s.config.Status())
	})
	mux.HandleFunc("POST /datastore/compact", func(w http.ResponseWriter, r *http.Request) {
		if s.config.Compact == nil {
			http.Error(w, "there is no datastore here", http.StatusNotFound)
			return
		}
		if err := s.config.Compact(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.reply(w, http.StatusOK, s.config.Status())
	})
	mux.HandleFunc("POST /datastore/remove-member", func(w http.ResponseWriter, r *http.Request) {
		if s.config.RemoveMember == nil {
			http.Error(w, "there is no datastore here", http.StatusNotFound)
			return
		}
		names, err := s.config.RemoveMember(r.Context(), r.URL.Query().Get("node"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.reply(w, http.StatusOK, names)
	})
	return mux
}

func (s *Server) reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		s.config.Logger.Debug("answer on control socket", "error", err)
	}
}
