// Package control is the local line between the knarr commands and the running
// knarr process: a unix socket on which `knarr status` asks and `knarr stop`
// commands.
//
// It is not an API for other machines or users: the socket belongs to root,
// mode 0600, and what may be asked is a fixed handful. It decides nothing
// either: status and stop are functions given to it.
//
// The Server is a lifecycle component. It stops when its context ends; the lock
// it holds ends with the process, so a kill -9 leaves nothing that blocks the
// next start.
package control

import (
	"path/filepath"
	"time"

	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// Defaults below /run/knarr.
const (
	// DefaultDir is the directory of the socket and the pid file.
	DefaultDir = "/run/knarr"
	socketName = "control.sock"
	pidName    = "knarr.pid"
)

// SocketPath is the control socket in the run directory dir.
func SocketPath(dir string) string { return filepath.Join(dir, socketName) }

// PIDPath is the pid file in the run directory dir. Its holder keeps it locked
// (an open file description lock) for as long as it lives, so a leftover file is told from a live one.
func PIDPath(dir string) string { return filepath.Join(dir, pidName) }

// Status is what the running process says of itself.
type Status struct {
	Version string `json:"version"`
	PID     int    `json:"pid"`
	// StartTime is when the process was started.
	StartTime time.Time `json:"startTime"`
	// Role is "server" or "agent".
	Role     string `json:"role"`
	NodeName string `json:"nodeName"`
	DataDir  string `json:"dataDir"`
	// Endpoint is the URL of the API server as this node reaches it.
	Endpoint string `json:"endpoint,omitempty"`
	// LogFile is where the log goes when it is a file; "" means standard error.
	LogFile string `json:"logFile,omitempty"`
	// Ready is when every component was first ready; nil until then.
	Ready *time.Time `json:"ready,omitempty"`
	// Stopping is set from the moment the process was asked to stop.
	Stopping bool `json:"stopping,omitempty"`
	// Servers are those of an agent's cluster.
	Servers   []ServerLink `json:"servers,omitempty"`
	Datastore *Datastore   `json:"datastore,omitempty"`
	// Leader is the server whose control loops run, where there are several; empty while none is known to lead.
	Leader string `json:"leader,omitempty"`
	// Addons are the manifests that the server applies; nil where there are none.
	Addons *Addons `json:"addons,omitempty"`
	// Components in the order in which they start.
	Components []lifecycle.Status `json:"components"`
}

// ServerLink is a server as an agent knows it.
type ServerLink struct {
	Address string `json:"address"`
	// Tunnel is whether the server can open connections to this node.
	Tunnel bool `json:"tunnel"`
	// Used is whether this node's own requests go to it.
	Used bool `json:"used,omitempty"`
}

// Datastore tells where the cluster's objects are.
type Datastore struct {
	// Kind is "sqlite", "postgres", "mysql", "nats", "etcd" or "etcd-embedded".
	Kind string `json:"kind"`
	// Endpoint never holds a password.
	Endpoint string `json:"endpoint,omitempty"`
	// SizeBytes is the size on disk; 0 when it is not local.
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// Revision is the newest revision; 0 when it is not known.
	Revision int64 `json:"revision,omitempty"`
	// Members are those of an embedded etcd's cluster.
	Members []DatastoreMember `json:"members,omitempty"`
	// Error is the last error; "" while all is well.
	Error string `json:"error,omitempty"`
}

// Addons are the manifests that the server applies, in short.
type Addons struct {
	Total int `json:"total"`
	// Trouble are those that are not as they should be.
	Trouble []Addon `json:"trouble,omitempty"`
}

// Addon is one of them.
type Addon struct {
	Name string `json:"name"`
	// State is that of the Addon object: Applying, Waiting, Failed, Conflict or Removing.
	State   string `json:"state"`
	Message string `json:"message,omitempty"`
}

// DatastoreMember is one server of several that keep the datastore together.
type DatastoreMember struct {
	Name    string `json:"name"`
	Leader  bool   `json:"leader,omitempty"`
	Learner bool   `json:"learner,omitempty"`
}

// StopReply answers a stop: who is ending.
type StopReply struct {
	PID int `json:"pid"`
}
