package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotRunning is the error when no knarr process answers on this host.
var ErrNotRunning = errors.New("knarr is not running on this host")

// callTimeout bounds one exchange; the other side only reads its memory.
const callTimeout = 5 * time.Second

// Client asks the running process of a run directory.
type Client struct {
	dir  string
	http *http.Client
}

// NewClient returns a client for the run directory dir; DefaultDir when empty.
func NewClient(dir string) *Client {
	if dir == "" {
		dir = DefaultDir
	}
	var dialer net.Dialer
	return &Client{dir: dir, http: &http.Client{
		Timeout: callTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, "unix", SocketPath(dir))
			},
		},
	}}
}

// Status asks the process to describe itself. The error is ErrNotRunning when
// nobody listens.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var status Status
	return status, c.call(ctx, http.MethodGet, "/status", &status)
}

// Stop asks the process to stop; it returns before the process has ended. The
// error is ErrNotRunning when nobody listens.
func (c *Client) Stop(ctx context.Context) (StopReply, error) {
	var reply StopReply
	return reply, c.call(ctx, http.MethodPost, "/stop", &reply)
}

// EndPods has the process end the node's pods when it stops next, each after its
// hooks and its own grace but no longer than grace, if that is not 0.
func (c *Client) EndPods(ctx context.Context, grace time.Duration) error {
	var reply StopReply
	return c.call(ctx, http.MethodPost, "/pods/end?grace="+grace.String(), &reply)
}

// Compact has the datastore's history deleted and returns the status after that;
// it takes as long as ctx allows. The error is ErrNotRunning when nobody listens.
func (c *Client) Compact(ctx context.Context) (Status, error) {
	patient := *c.http
	patient.Timeout = 0
	var status Status
	return status, (&Client{dir: c.dir, http: &patient}).call(ctx, http.MethodPost, "/datastore/compact", &status)
}

// RemoveMember has a server take the etcd members of a node out of their cluster,
// and returns their names; it takes as long as ctx allows. The error is
// ErrNotRunning when nobody listens.
func (c *Client) RemoveMember(ctx context.Context, node string) ([]string, error) {
	patient := *c.http
	patient.Timeout = 0
	var names []string
	return names, (&Client{dir: c.dir, http: &patient}).call(ctx, http.MethodPost, "/datastore/remove-member?node="+url.QueryEscape(node), &names)
}

// SyncToken has a server tell the others of a token that was rotated on this
// host. The error is ErrNotRunning when nobody listens.
func (c *Client) SyncToken(ctx context.Context) error {
	var status Status
	return c.call(ctx, http.MethodPost, "/token/sync", &status)
}

func (c *Client) call(ctx context.Context, method, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://knarr"+path, nil)
	if err != nil {
		return fmt.Errorf("ask control socket: %w", err)
	}
	response, err := c.http.Do(request)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return ErrNotRunning
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: only root may ask; try `sudo knarr ...`", err)
	case err != nil:
		return fmt.Errorf("ask control socket: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		text, err := io.ReadAll(io.LimitReader(response.Body, 1024))
		if err != nil {
			return fmt.Errorf("read answer of control socket: %w", err)
		}
		return fmt.Errorf("control socket answered %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		return fmt.Errorf("read answer of control socket: %w", err)
	}
	return nil
}

// LockedPID returns the process that holds the pid file's lock. It works when
// the socket does not: before it is opened, or when the process hangs. The error
// is ErrNotRunning when nobody holds the lock.
func LockedPID(dir string) (int, error) {
	if dir == "" {
		dir = DefaultDir
	}
	path := PIDPath(dir)
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, ErrNotRunning
	}
	if err != nil {
		return 0, fmt.Errorf("open pid file: %w", err)
	}
	defer file.Close()
	// Asking for the lock's holder takes no lock, so it cannot get into the way of
	// a process that starts at this moment.
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return 0, fmt.Errorf("look at lock of pid file %s: %w", path, err)
	}
	if lock.Type == unix.F_UNLCK {
		return 0, ErrNotRunning
	}
	data, err := io.ReadAll(file)
	if err != nil {
		return 0, fmt.Errorf("read pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("pid file %s holds %q, not a process id", path, data)
	}
	return pid, nil
}
