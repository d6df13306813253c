package crictl

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	streamingcommand "k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"k8s.io/cri-streaming/pkg/streaming"
)

// fakeRuntime is a container runtime that holds what a test puts into it. It serves
// the CRI on a unix socket and streams over HTTP, as containerd does.
type fakeRuntime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	mu         sync.Mutex
	containers []*runtimeapi.Container
	pods       []*runtimeapi.PodSandbox
	images     []*runtimeapi.Image
	logPath    string
	did        []string // what was asked for that changes something
	samples    int64    // how often usage was asked for
	streams    streaming.Server
}

// now is when the tests take place.
func now() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func ago(d time.Duration) int64 { return now().Add(-d).UnixNano() }

func id(letter string) string { return strings.Repeat(letter, 64) }

// newFake is a runtime with two pods: one runs, with a container that has ended
// beside the one that runs.
func newFake() *fakeRuntime {
	labels := map[string]string{labelPod: "web-0", labelNamespace: "shop"}
	return &fakeRuntime{
		pods: []*runtimeapi.PodSandbox{
			{Id: id("a"), State: runtimeapi.PodSandboxState_SANDBOX_READY, CreatedAt: ago(3 * time.Minute),
				Metadata: &runtimeapi.PodSandboxMetadata{Name: "web-0", Namespace: "shop", Uid: "u1"}, Labels: labels},
			{Id: id("b"), State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY, CreatedAt: ago(2 * time.Hour), RuntimeHandler: "runsc",
				Metadata: &runtimeapi.PodSandboxMetadata{Name: "job-1", Namespace: "batch", Uid: "u2", Attempt: 4}},
		},
		containers: []*runtimeapi.Container{
			{Id: id("c"), PodSandboxId: id("a"), State: runtimeapi.ContainerState_CONTAINER_RUNNING, CreatedAt: ago(2 * time.Minute), Labels: labels,
				Metadata: &runtimeapi.ContainerMetadata{Name: "nginx", Attempt: 1}, Image: &runtimeapi.ImageSpec{Image: "sha256:" + id("1")},
				ImageRef: "sha256:" + id("1"), ImageId: "sha256:" + id("1")},
			{Id: id("d"), PodSandboxId: id("a"), State: runtimeapi.ContainerState_CONTAINER_EXITED, CreatedAt: ago(3 * time.Minute), Labels: labels,
				Metadata: &runtimeapi.ContainerMetadata{Name: "init"}, Image: &runtimeapi.ImageSpec{Image: "sha256:" + id("2")}, ImageId: "sha256:" + id("2")},
		},
		images: []*runtimeapi.Image{
			{Id: "sha256:" + id("1"), RepoTags: []string{"registry.example:5000/web/nginx:1.27", "registry.example:5000/web/nginx:latest"},
				RepoDigests: []string{"registry.example:5000/web/nginx@sha256:" + id("f")}, Size: 72_300_000},
			{Id: "sha256:" + id("2"), RepoDigests: []string{"docker.io/library/busybox@sha256:" + id("e")}, Size: 2_100_000},
			{Id: "sha256:" + id("3"), RepoTags: []string{"docker.io/knarr/pause:1"}, Size: 300_000, Pinned: true},
		},
	}
}

// connect serves the runtime until the test ends and connects to it.
func connect(t *testing.T, f *fakeRuntime) (*Client, *bytes.Buffer) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "cri.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(server, f)
	runtimeapi.RegisterImageServiceServer(server, f)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	f.serveStreams(t)
	var out bytes.Buffer
	c, err := Connect(t.Context(), "unix://"+socket, 10*time.Second, &out)
	if err != nil {
		t.Fatal(err)
	}
	c.now = now
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c, &out
}

func (f *fakeRuntime) serveStreams(t *testing.T) {
	t.Helper()
	web := httptest.NewUnstartedServer(nil)
	config := streaming.DefaultConfig
	config.BaseURL = &url.URL{Scheme: "http", Host: web.Listener.Addr().String()}
	var err error
	if f.streams, err = streaming.NewServer(config, fakeStreams{}); err != nil {
		t.Fatal(err)
	}
	web.Config.Handler = f.streams
	web.Start()
	t.Cleanup(web.Close)
}

// fakeStreams runs commands: "cat" copies, "size" tells the terminal's size, "false"
// ends with 3.
type fakeStreams struct{}

func (fakeStreams) Exec(_ context.Context, container string, command []string, in io.Reader, out, errOut io.WriteCloser, tty bool, _ <-chan streamingcommand.TerminalSize) error {
	switch command[0] {
	case "false":
		return utilexec.CodeExitError{Err: fmt.Errorf("exit 3"), Code: 3}
	case "cat":
		_, err := io.Copy(out, in)
		return err
	}
	if _, err := fmt.Fprintf(out, "%s %v tty=%v", container[:3], command, tty); err != nil || tty {
		return err
	}
	_, err := io.WriteString(errOut, "warned")
	return err
}

func (f fakeStreams) Attach(ctx context.Context, container string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan streamingcommand.TerminalSize) error {
	return f.Exec(ctx, container, []string{"attached"}, in, out, errOut, tty, resize)
}

func (fakeStreams) PortForward(context.Context, string, int32, io.ReadWriteCloser) error {
	return fmt.Errorf("not for crictl")
}

var _ remotecommand.TerminalSizeQueue = (*sizeQueue)(nil)

func (f *fakeRuntime) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "containerd", RuntimeVersion: "v2.4.2", RuntimeApiVersion: "v1"}, nil
}

func (f *fakeRuntime) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: "RuntimeReady", Status: true}, {Type: "NetworkReady", Reason: "NoConfig", Message: "cni not initialized"}}},
		Info: map[string]string{"config": `{"cniVersion":"1.0"}`, "golang": "go1.26"},
	}, nil
}

func (f *fakeRuntime) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []*runtimeapi.Container
	for _, c := range f.containers {
		filter := r.GetFilter()
		if filter.GetState() != nil && filter.GetState().GetState() != c.GetState() || !strings.HasPrefix(c.GetId(), filter.GetId()) ||
			!strings.HasPrefix(c.GetPodSandboxId(), filter.GetPodSandboxId()) || !labelled(c.GetLabels(), filter.GetLabelSelector()) {
			continue
		}
		found = append(found, c)
	}
	return &runtimeapi.ListContainersResponse{Containers: found}, nil
}

func labelled(labels, want map[string]string) bool {
	for key := range maps.Keys(want) {
		if labels[key] != want[key] {
			return false
		}
	}
	return true
}

func (f *fakeRuntime) container(prefix string) (*runtimeapi.Container, error) {
	for _, c := range f.containers {
		if strings.HasPrefix(c.GetId(), prefix) {
			return c, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "container %q: not found", prefix)
}

func (f *fakeRuntime) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	answer := &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{
		Id: c.GetId(), Metadata: c.GetMetadata(), State: c.GetState(), CreatedAt: c.GetCreatedAt(), Image: c.GetImage(), ImageRef: c.GetImage().GetImage(),
		Labels: c.GetLabels(), LogPath: f.logPath,
	}}
	if r.GetVerbose() {
		answer.Info = map[string]string{"info": `{"pid":4711,"runtimeSpec":{"hostname":"web-0"}}`}
	}
	return answer, nil
}

func (f *fakeRuntime) ListPodSandbox(_ context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []*runtimeapi.PodSandbox
	for _, p := range f.pods {
		filter := r.GetFilter()
		if (filter.GetState() == nil || filter.GetState().GetState() == p.GetState()) && strings.HasPrefix(p.GetId(), filter.GetId()) &&
			labelled(p.GetLabels(), filter.GetLabelSelector()) {
			found = append(found, p)
		}
	}
	return &runtimeapi.ListPodSandboxResponse{Items: found}, nil
}

func (f *fakeRuntime) PodSandboxStatus(_ context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pods {
		if strings.HasPrefix(p.GetId(), r.GetPodSandboxId()) {
			return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{
				Id: p.GetId(), Metadata: p.GetMetadata(), State: p.GetState(), CreatedAt: p.GetCreatedAt(),
				Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.42.0.7"},
			}}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "sandbox %q: not found", r.GetPodSandboxId())
}

// note remembers a request that changes something.
func (f *fakeRuntime) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.did = append(f.did, fmt.Sprintf(format, args...))
}

func (f *fakeRuntime) StopContainer(_ context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	if _, err := f.container(r.GetContainerId()); err != nil {
		return nil, err
	}
	f.note("stop %.3s %d", r.GetContainerId(), r.GetTimeout())
	return &runtimeapi.StopContainerResponse{}, nil
}

func (f *fakeRuntime) RemoveContainer(_ context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	f.note("rm %.3s", r.GetContainerId())
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (f *fakeRuntime) StopPodSandbox(_ context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	f.note("stopp %.3s", r.GetPodSandboxId())
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

func (f *fakeRuntime) RemovePodSandbox(_ context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	f.note("rmp %.3s", r.GetPodSandboxId())
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

func (f *fakeRuntime) ExecSync(_ context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	return &runtimeapi.ExecSyncResponse{Stdout: []byte("out"), Stderr: []byte("err"), ExitCode: int32(len(r.GetCmd()) - 1)}, nil
}

func (f *fakeRuntime) Exec(_ context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if _, err := f.container(r.GetContainerId()); err != nil {
		return nil, err
	}
	return f.streams.GetExec(r)
}

func (f *fakeRuntime) Attach(_ context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return f.streams.GetAttach(r)
}

// ListContainerStats uses a quarter of a processor between each two calls.
func (f *fakeRuntime) ListContainerStats(context.Context, *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.samples++
	return &runtimeapi.ListContainerStatsResponse{Stats: []*runtimeapi.ContainerStats{{
		Attributes:    &runtimeapi.ContainerAttributes{Id: id("c"), Metadata: &runtimeapi.ContainerMetadata{Name: "nginx"}},
		Cpu:           f.cpu(),
		Memory:        &runtimeapi.MemoryUsage{WorkingSetBytes: number(12_300_000)},
		WritableLayer: &runtimeapi.FilesystemUsage{UsedBytes: number(4096), InodesUsed: number(7)},
	}}}, nil
}

func (f *fakeRuntime) cpu() *runtimeapi.CpuUsage {
	return &runtimeapi.CpuUsage{Timestamp: f.samples * 1e9, UsageCoreNanoSeconds: number(uint64(f.samples) * 25e7)}
}

func number(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

func (f *fakeRuntime) ListPodSandboxStats(context.Context, *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.samples++
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: []*runtimeapi.PodSandboxStats{{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: id("a"), Metadata: &runtimeapi.PodSandboxMetadata{Name: "web-0", Namespace: "shop"}},
		Linux: &runtimeapi.LinuxPodSandboxStats{Cpu: f.cpu(), Memory: &runtimeapi.MemoryUsage{WorkingSetBytes: number(20_000_000)},
			Network: &runtimeapi.NetworkUsage{DefaultInterface: &runtimeapi.NetworkInterfaceUsage{RxBytes: number(1500), TxBytes: number(2500)}}},
	}}}, nil
}

func (f *fakeRuntime) ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	return &runtimeapi.ListImagesResponse{Images: f.images}, nil
}

func (f *fakeRuntime) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	for _, i := range f.images {
		if i.GetId() == r.GetImage().GetImage() || slices.Contains(i.GetRepoTags(), r.GetImage().GetImage()) {
			return &runtimeapi.ImageStatusResponse{Image: i}, nil
		}
	}
	return &runtimeapi.ImageStatusResponse{}, nil
}

func (f *fakeRuntime) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{}, nil
}

func (f *fakeRuntime) PullImage(_ context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if r.GetImage().GetImage() == "absent" {
		return nil, status.Error(codes.NotFound, "failed to resolve image: not found")
	}
	f.note("pull %s %s:%s %s", r.GetImage().GetImage(), r.GetAuth().GetUsername(), r.GetAuth().GetPassword(), r.GetAuth().GetAuth())
	return &runtimeapi.PullImageResponse{ImageRef: "sha256:" + id("1")}, nil
}

func (f *fakeRuntime) RemoveImage(_ context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	f.note("rmi %.10s", r.GetImage().GetImage())
	return &runtimeapi.RemoveImageResponse{}, nil
}
