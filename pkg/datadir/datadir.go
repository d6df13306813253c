// Package datadir knows where knarr keeps its state and who may use it: the
// names of all paths below the data-dir ([Dir]) and the run directory ([Run]),
// the stamp that keeps an older knarr from a newer one's data, and the lock
// that keeps two servers apart.
//
// It is not what writes those files: each belongs to the package that knows its
// content. The paths have k3s's names, for users and their scripts.
//
// It starts nothing. [Lock.Close] gives up the data-dir, and so does the end of
// the process, however it comes.
package datadir

import "path/filepath"

// Dir is a data-dir. It is a value: making one does no I/O.
type Dir struct{ root string }

// New is the data-dir at root, an absolute path (config.Common.DataDir).
func New(root string) Dir { return Dir{filepath.Clean(root)} }

// Root is the data-dir itself.
func (d Dir) Root() string { return d.root }

func (d Dir) join(elem ...string) string {
	return filepath.Join(append([]string{d.root}, elem...)...)
}

// VersionFile holds the version of the newest knarr that used the data-dir.
func (d Dir) VersionFile() string { return d.join("version") }

// LockFile is locked by the process that uses the data-dir and holds its pid.
func (d Dir) LockFile() string { return d.join("lock") }

// Helpers holds the programs out of the executable, by content hash.
func (d Dir) Helpers() string { return d.join("data") }

// Ingress holds the ingress controller's program out of the executable, likewise.
func (d Dir) Ingress() string { return d.join("data", "ingress") }

// Server is the root of the state of the control plane.
func (d Dir) Server() string { return d.join("server") }

// DB is the datastore's directory.
func (d Dir) DB() string { return d.join("server", "db") }

// TLS holds the control plane's certificates, CAs and keys.
func (d Dir) TLS() string { return d.join("server", "tls") }

// Token is the file with the token that servers join with.
func (d Dir) Token() string { return d.join("server", "token") }

// AgentToken is the file with the token that agents join with.
func (d Dir) AgentToken() string { return d.join("server", "agent-token") }

// Manifests holds the manifests that the server applies.
func (d Dir) Manifests() string { return d.join("server", "manifests") }

// Static holds files that the server serves to its cluster.
func (d Dir) Static() string { return d.join("server", "static") }

// Storage is where local volumes are by default.
func (d Dir) Storage() string { return d.join("storage") }

// Agent is the root of the state of the node.
func (d Dir) Agent() string { return d.join("agent") }

// NodeID is the file with the id that --with-node-id appends to the node's name.
func (d Dir) NodeID() string { return d.join("agent", "node-id") }

// Containerd is containerd's root: images, snapshots and metadata.
func (d Dir) Containerd() string { return d.join("agent", "containerd") }

// Images holds image archives to import.
func (d Dir) Images() string { return d.join("agent", "images") }

// PodManifests holds the manifests of static pods.
func (d Dir) PodManifests() string { return d.join("agent", "pod-manifests") }

// KubeletKubeconfig is the kubelet's kubeconfig.
func (d Dir) KubeletKubeconfig() string { return d.join("agent", "kubelet.kubeconfig") }

// KubeProxyKubeconfig is kube-proxy's kubeconfig.
func (d Dir) KubeProxyKubeconfig() string { return d.join("agent", "kubeproxy.kubeconfig") }

// ContainerdConfig is containerd's generated configuration.
func (d Dir) ContainerdConfig() string { return d.join("agent", "etc", "containerd", "config.toml") }

// RegistryConfig holds containerd's generated hosts.toml files (config_path).
func (d Dir) RegistryConfig() string { return d.join("agent", "etc", "containerd", "certs.d") }

// KubeletConfig holds the kubelet's configuration drop-ins, the user's as well.
func (d Dir) KubeletConfig() string { return d.join("agent", "etc", "kubelet.conf.d") }

// CNIConfig holds the generated CNI configuration.
func (d Dir) CNIConfig() string { return d.join("agent", "etc", "cni", "net.d") }

// WireGuardKey is the node's key for traffic between nodes.
func (d Dir) WireGuardKey() string { return d.join("agent", "wireguard.key") }

// Run is the run directory: what does not outlive a reboot.
type Run struct{ root string }

// DefaultRun is where the run directory is on every host.
const DefaultRun = "/run/knarr"

// NewRun is the run directory at root, an absolute path.
func NewRun(root string) Run { return Run{filepath.Clean(root)} }

// Root is the run directory itself.
func (r Run) Root() string { return r.root }

// Containerd is containerd's state directory.
func (r Run) Containerd() string { return filepath.Join(r.root, "containerd") }

// ContainerdSocket is the socket of containerd and its CRI.
func (r Run) ContainerdSocket() string { return filepath.Join(r.root, "containerd", "containerd.sock") }

// DNS holds which DNS servers pods can use, for kubelet and cluster DNS.
func (r Run) DNS() string { return filepath.Join(r.root, "dns") }

// Executable is a link to the running knarr: the bundled pods mount what it leads to.
func (r Run) Executable() string { return filepath.Join(r.root, "exe") }

// Ingress is a link to the ingress controller's program: its pods mount what it leads to.
func (r Run) Ingress() string { return filepath.Join(r.root, "traefik") }
