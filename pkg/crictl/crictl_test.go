package crictl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/knarr-io/knarr/tests/golden"
)

func TestTables(t *testing.T) {
	type call func(*Client, context.Context) error
	ps := func(o ListOptions) call {
		return func(c *Client, ctx context.Context) error { return c.PS(ctx, o) }
	}
	pods := func(o ListOptions) call {
		return func(c *Client, ctx context.Context) error { return c.Pods(ctx, o) }
	}
	images := func(o ListOptions) call {
		return func(c *Client, ctx context.Context) error { return c.Images(ctx, o) }
	}
	for _, tc := range []struct {
		name string
		call call
	}{
		{"ps", ps(ListOptions{})},
		{"ps-all", ps(ListOptions{All: true})},
		{"ps-exited-whole", ps(ListOptions{State: "Exited", NoTrunc: true})},
		{"ps-quiet", ps(ListOptions{Quiet: true, All: true})},
		{"ps-latest", ps(ListOptions{Latest: true})},
		{"ps-name", ps(ListOptions{All: true, Name: "^in"})},
		{"ps-other-pod", ps(ListOptions{All: true, Pod: "b"})},
		{"ps-yaml", ps(ListOptions{Format: YAML})},
		{"pods", pods(ListOptions{})},
		{"pods-notready", pods(ListOptions{State: "notready"})},
		{"pods-namespace", pods(ListOptions{Namespace: "shop"})},
		{"pods-quiet", pods(ListOptions{Quiet: true})},
		{"images", images(ListOptions{})},
		{"images-digests", images(ListOptions{Digests: true})},
		{"images-pinned", images(ListOptions{Pinned: true, NoTrunc: true})},
		{"images-name", images(ListOptions{Image: "busybox"})},
		{"stats", func(c *Client, ctx context.Context) error {
			return c.Stats(ctx, StatsOptions{Over: time.Millisecond})
		}},
		{"statsp", func(c *Client, ctx context.Context) error {
			return c.PodStats(ctx, StatsOptions{Over: time.Millisecond})
		}},
		{"inspect-json", func(c *Client, ctx context.Context) error { return c.Inspect(ctx, []string{"ccc"}, JSON) }},
		{"inspect-table", func(c *Client, ctx context.Context) error { return c.Inspect(ctx, []string{"ddd"}, Table) }},
		{"inspectp-yaml", func(c *Client, ctx context.Context) error { return c.InspectPods(ctx, []string{"aaa"}, YAML) }},
		{"inspecti-table", func(c *Client, ctx context.Context) error {
			return c.InspectImages(ctx, []string{"docker.io/knarr/pause:1"}, Table)
		}},
		{"info", func(c *Client, ctx context.Context) error { return c.Info(ctx, JSON) }},
		{"info-table", func(c *Client, ctx context.Context) error { return c.Info(ctx, Table) }},
		{"version", func(c *Client, ctx context.Context) error { return c.Version(ctx, Table) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, out := connect(t, newFake())
			if err := tc.call(c, t.Context()); err != nil {
				t.Fatal(err)
			}
			golden.Check(t, filepath.Join("testdata", tc.name), out.String())
		})
	}
}

func TestJSONIsTheMessage(t *testing.T) {
	c, out := connect(t, newFake())
	if err := c.PS(t.Context(), ListOptions{All: true, Format: JSON}); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Containers []struct {
			ID, PodSandboxID, State string
		}
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Containers) != 2 || got.Containers[0].ID != id("c") || got.Containers[0].State != "CONTAINER_RUNNING" {
		t.Errorf("got %+v", got)
	}
}

func TestErrorsArePlain(t *testing.T) {
	c, _ := connect(t, newFake())
	ctx := t.Context()
	for name, tc := range map[string]struct {
		err  error
		says string
	}{
		"container": {c.Inspect(ctx, []string{"zzz"}, JSON), `inspect container zzz: container "zzz": not found`},
		"pod":       {c.InspectPods(ctx, []string{"zzz"}, JSON), `inspect pod zzz: sandbox "zzz": not found`},
		"image":     {c.InspectImages(ctx, []string{"zzz"}, JSON), "inspect image zzz: it is not on this node"},
		"pull":      {c.Pull(ctx, "absent", "", ""), "pull absent: failed to resolve image: not found"},
		"creds":     {c.Pull(ctx, "x", "nobody", ""), "want USER:PASSWORD"},
		"both":      {c.Pull(ctx, "x", "a:b", "c"), "either --creds or --auth"},
		"state":     {c.PS(ctx, ListOptions{State: "happy"}), "want created, running, exited or unknown"},
		"pod state": {c.Pods(ctx, ListOptions{State: "happy"}), "want ready or notready"},
		"pattern":   {c.PS(ctx, ListOptions{Name: "("}), "--name: "},
		"since":     {c.Logs(ctx, "ccc", LogOptions{Since: "yesterday"}, nil, nil), "--since"},
		"no log":    {c.Logs(ctx, "ccc", LogOptions{}, nil, nil), "keeps no log"},
		"exec":      {c.Exec(ctx, "zzz", []string{"x"}, Streams{}), `container "zzz": not found`},
	} {
		if tc.err == nil || !strings.Contains(tc.err.Error(), tc.says) || strings.Contains(tc.err.Error(), "rpc error") {
			t.Errorf("%s: %v, want %q in it and no gRPC", name, tc.err, tc.says)
		}
	}
}

func TestConnectWithoutRuntime(t *testing.T) {
	dir := t.TempDir()
	for endpoint, says := range map[string]string{
		"unix://" + dir + "/none.sock": "see `knarr status`", "/run/x.sock": "want unix://", "tcp://1.2.3.4:5": "want unix://", "unix://": "want unix://",
	} {
		_, err := Connect(t.Context(), endpoint, time.Second, nil)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", endpoint, err, says)
		}
	}
	// A socket of something else, or of a runtime that hangs.
	stale := dir + "/stale.sock"
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Connect(t.Context(), "unix://"+stale, 200*time.Millisecond, nil); err == nil {
		t.Error("connected to a file")
	}
}

func TestActions(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(*Client, context.Context) error
		did  []string
		says string // of the error; "" for none
	}{
		{"stop", func(c *Client, ctx context.Context) error { return c.Stop(ctx, []string{"ccc"}, 5) }, []string{"stop ccc 5"}, ""},
		{"stop goes on after a failure", func(c *Client, ctx context.Context) error { return c.Stop(ctx, []string{"zzz", "ccc"}, 0) },
			[]string{"stop ccc 0"}, "zzz: "},
		{"stopp", func(c *Client, ctx context.Context) error { return c.StopPods(ctx, []string{"aaa"}) }, []string{"stopp aaa"}, ""},
		{"rm of what runs", func(c *Client, ctx context.Context) error { return c.Remove(ctx, []string{"ccc"}, RemoveOptions{}) }, nil, "--force"},
		{"rm by force", func(c *Client, ctx context.Context) error {
			return c.Remove(ctx, []string{"ccc"}, RemoveOptions{Force: true})
		}, []string{"stop ccc 0", "rm ccc"}, ""},
		{"rm all", func(c *Client, ctx context.Context) error {
			return c.Remove(ctx, nil, RemoveOptions{All: true, Force: true})
		}, []string{"stop ccc 0", "rm ccc", "rm ddd"}, ""},
		{"rmp of what is ready", func(c *Client, ctx context.Context) error { return c.RemovePods(ctx, []string{"aaa"}, RemoveOptions{}) }, nil, "stopp"},
		{"rmp all", func(c *Client, ctx context.Context) error {
			return c.RemovePods(ctx, nil, RemoveOptions{All: true, Force: true})
		}, []string{"stopp aaa", "rmp aaa", "rmp bbb"}, ""},
		{"rmi by name", func(c *Client, ctx context.Context) error {
			return c.RemoveImages(ctx, []string{"registry.example:5000/web/nginx:latest"}, false, false)
		}, []string{"rmi sha256:111"}, ""},
		{"rmi of none", func(c *Client, ctx context.Context) error { return c.RemoveImages(ctx, []string{"x"}, false, false) }, nil, "not on this node"},
		{"rmi all but pinned", func(c *Client, ctx context.Context) error { return c.RemoveImages(ctx, nil, true, false) },
			[]string{"rmi sha256:111", "rmi sha256:222"}, ""},
		{"rmi unused", func(c *Client, ctx context.Context) error { return c.RemoveImages(ctx, nil, false, true) }, nil, ""},
		{"pull", func(c *Client, ctx context.Context) error { return c.Pull(ctx, "x", "me:secret:word", "") }, []string{"pull x me:secret:word "}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake()
			c, _ := connect(t, f)
			err := tc.do(c, t.Context())
			if tc.says == "" && err != nil || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("error %v, want %q", err, tc.says)
			}
			if !reflect.DeepEqual(f.did, tc.did) {
				t.Errorf("did %q, want %q", f.did, tc.did)
			}
		})
	}
}

func TestExecAndAttach(t *testing.T) {
	c, _ := connect(t, newFake())
	var out, errOut bytes.Buffer
	streams := func(in string, tty bool) Streams {
		out.Reset()
		errOut.Reset()
		s := Streams{Stdout: &out, Stderr: &errOut, TTY: tty}
		if in != "" {
			s.Stdin = strings.NewReader(in)
		}
		return s
	}
	if err := c.Exec(t.Context(), "ccc", []string{"ls", "-l"}, streams("", false)); err != nil || out.String() != "ccc [ls -l] tty=false" || errOut.String() != "warned" {
		t.Errorf("exec gave %q, %q, %v", &out, &errOut, err)
	}
	if err := c.Exec(t.Context(), "ccc", []string{"cat"}, streams("through and back", false)); err != nil || out.String() != "through and back" {
		t.Errorf("exec with input gave %q, %v", &out, err)
	}
	if err := c.Exec(t.Context(), "ccc", []string{"sh"}, streams("x", true)); err != nil || out.String() != "ccc [sh] tty=true" {
		t.Errorf("exec with a terminal gave %q, %v", &out, err)
	}
	var ended *ExitError
	if err := c.Exec(t.Context(), "ccc", []string{"false"}, streams("", false)); !errors.As(err, &ended) || ended.ExitCode() != 3 {
		t.Errorf("exec of what fails gave %v, want exit code 3", err)
	}
	if err := c.Attach(t.Context(), "ccc", streams("", false)); err != nil || out.String() != "ccc [attached] tty=false" {
		t.Errorf("attach gave %q, %v", &out, err)
	}
	if err := c.ExecSync(t.Context(), "ccc", []string{"a", "b"}, time.Second, streams("", false)); !errors.As(err, &ended) || ended.Code != 1 || out.String() != "out" || errOut.String() != "err" {
		t.Errorf("exec --sync gave %q, %q, %v", &out, &errOut, err)
	}
}

func TestLogs(t *testing.T) {
	f := newFake()
	dir := t.TempDir()
	f.logPath = filepath.Join(dir, "1.log")
	lines := "2026-01-02T03:00:00.000000000Z stdout F first\n2026-01-02T03:04:00.000000000Z stderr F bad\n2026-01-02T03:04:01.000000000Z stdout F last\n"
	for name, content := range map[string]string{"1.log": lines, "0.log": "2026-01-01T00:00:00.000000000Z stdout F earlier\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c, _ := connect(t, f)
	for name, tc := range map[string]struct {
		options     LogOptions
		out, errOut string
	}{
		"all":        {LogOptions{Tail: -1, Bytes: -1}, "first\nlast\n", "bad\n"},
		"tail":       {LogOptions{Tail: 1, Bytes: -1}, "last\n", ""},
		"since":      {LogOptions{Tail: -1, Bytes: -1, Since: "1m"}, "last\n", "bad\n"},
		"since time": {LogOptions{Tail: -1, Bytes: -1, Since: "2026-01-02T03:04:01Z"}, "last\n", ""},
		"timestamps": {LogOptions{Tail: 1, Bytes: -1, Timestamps: true}, "2026-01-02T03:04:01.000000000Z last\n", ""},
		"previous":   {LogOptions{Tail: -1, Bytes: -1, Previous: true}, "earlier\n", ""},
	} {
		var out, errOut bytes.Buffer
		if err := c.Logs(t.Context(), "ccc", tc.options, &out, &errOut); err != nil || out.String() != tc.out || errOut.String() != tc.errOut {
			t.Errorf("%s: %q, %q, %v; want %q, %q", name, &out, &errOut, err, tc.out, tc.errOut)
		}
	}
}

// Following shows what is written meanwhile and ends with the container.
func TestLogsFollow(t *testing.T) {
	f := newFake()
	f.logPath = filepath.Join(t.TempDir(), "1.log")
	log, err := os.Create(f.logPath)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	write := func(line string) {
		if _, err := log.WriteString("2026-01-02T03:04:01.000000000Z stdout F " + line + "\n"); err != nil {
			t.Error(err)
		}
	}
	write("one")
	c, _ := connect(t, f)
	out := &signalling{wrote: make(chan struct{}, 8)}
	ended := make(chan error, 1)
	go func() {
		ended <- c.Logs(t.Context(), "ccc", LogOptions{Tail: -1, Bytes: -1, Follow: true}, out, out)
	}()
	written := func() {
		select {
		case <-out.wrote:
		case err := <-ended:
			t.Fatalf("ended early: %v", err)
		case <-time.After(30 * time.Second):
			t.Fatal("nothing is shown")
		}
	}
	written()
	write("two")
	written()
	f.mu.Lock()
	f.containers[0].State = runtimeapi.ContainerState_CONTAINER_EXITED
	f.mu.Unlock()
	select {
	case err := <-ended:
		if err != nil || out.String() != "one\ntwo\n" {
			t.Errorf("got %q, %v", out, err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("still following a container that has ended")
	}
}

// signalling is a buffer that tells of each line.
type signalling struct {
	bytes.Buffer
	wrote chan struct{}
}

func (s *signalling) Write(p []byte) (int, error) {
	n, err := s.Buffer.Write(p)
	if bytes.Contains(p, []byte("\n")) {
		s.wrote <- struct{}{}
	}
	return n, err
}
