package shutdown

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runtime is a container runtime that notes what is done to it, and when.
type runtime struct {
	mu         sync.Mutex
	start      time.Time
	sandboxes  []*runtimeapi.PodSandbox
	containers []*runtimeapi.Container
	log        []string
	// lasts is how long a container takes to end after SIGTERM; SIGKILL ends it.
	lasts map[string]time.Duration
	// lives is how often sandboxes are ended and run on.
	lives int
}

func (r *runtime) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, fmt.Sprintf("%v ", time.Since(r.start))+fmt.Sprintf(format, args...))
}

func (r *runtime) add(namespace, name, grace string, containers ...*runtimeapi.Container) {
	r.sandboxes = append(r.sandboxes, &runtimeapi.PodSandbox{Id: name, Metadata: &runtimeapi.PodSandboxMetadata{Namespace: namespace, Name: name, Uid: "uid-" + name}})
	for _, c := range containers {
		c.PodSandboxId = name
		c.Id = name + "/" + c.Metadata.Name
		c.Annotations[annotationGrace] = grace
		r.containers = append(r.containers, c)
	}
}

func (r *runtime) ListContainers(context.Context, *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.containers), nil
}

func (r *runtime) ListPodSandbox(context.Context, *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sandboxes), nil
}

func (r *runtime) PodSandboxStatus(context.Context, string, bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "127.0.0.1"}}}, nil
}

func (r *runtime) ExecSync(ctx context.Context, id string, command []string, timeout time.Duration) (stdout, stderr []byte, err error) {
	r.note("%s runs %s for at most %v", id, strings.Join(command, " "), timeout)
	d, err := time.ParseDuration(command[1])
	if err != nil {
		return nil, []byte("no such command\n"), err
	}
	select {
	case <-time.After(d):
		return nil, nil, nil
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

func (r *runtime) StopContainer(_ context.Context, id string, seconds int64) error {
	r.note("%s SIGTERM, %d s", id, seconds)
	time.Sleep(min(r.lasts[id], time.Duration(seconds)*time.Second))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.containers = slices.DeleteFunc(r.containers, func(c *runtimeapi.Container) bool { return c.Id == id })
	return nil
}

func (r *runtime) StopPodSandbox(_ context.Context, id string) error {
	r.note("%s is gone", id)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lives--; r.lives < 0 {
		r.sandboxes = slices.DeleteFunc(r.sandboxes, func(s *runtimeapi.PodSandbox) bool { return s.Id == id })
	}
	return nil
}

func container(name string, annotations ...string) *runtimeapi.Container {
	c := &runtimeapi.Container{Metadata: &runtimeapi.ContainerMetadata{Name: name}, Labels: map[string]string{labelContainer: name}, Annotations: map[string]string{}}
	for i := 0; i < len(annotations); i += 2 {
		c.Annotations[annotations[i]] = annotations[i+1]
	}
	return c
}

func sleeps(d string) string { return fmt.Sprintf(`{"exec":{"command":["sleep","%s"]}}`, d) }

func TestEnd(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	high, low := int32(critical), int32(5)
	specs := map[string]spec{
		"uid-web": specOf(&corev1.Pod{Spec: corev1.PodSpec{Priority: &low, InitContainers: []corev1.Container{
			{Name: "once"}, {Name: "first", RestartPolicy: &always}, {Name: "second", RestartPolicy: &always}}}}),
		"uid-db": specOf(&corev1.Pod{Spec: corev1.PodSpec{Priority: &high}}),
	}
	for _, tt := range []struct {
		name     string
		request  Request
		specs    map[string]spec
		fill     func(*runtime)
		want     []string
		parallel bool
		err      string
	}{
		{"nothing runs", Request{}, specs, func(*runtime) {}, nil, false, ""},
		{"low priority first, sidecars last", Request{}, specs, func(r *runtime) {
			r.add("shop", "db", "10", container("main"))
			r.add("shop", "web", "30", container("first"), container("second"), container("main"))
			r.lasts["web/main"] = 4 * time.Second
		}, []string{
			"0s web/main SIGTERM, 30 s", "4s web/second SIGTERM, 26 s", "4s web/first SIGTERM, 26 s", "4s web is gone",
			"4s db/main SIGTERM, 10 s", "4s db is gone"}, false, ""},
		{"a hook takes from the grace", Request{}, nil, func(r *runtime) {
			r.add("shop", "a", "20", container("main", annotationPreStop, sleeps("5s")))
		}, []string{"0s a/main runs sleep 5s for at most 20s", "5s a/main SIGTERM, 15 s", "5s a is gone"}, false, ""},
		{"a hook that hangs", Request{}, nil, func(r *runtime) {
			r.add("shop", "a", "20", container("main", annotationPreStop, sleeps("1h")))
		}, []string{"0s a/main runs sleep 1h for at most 20s", "20s a/main SIGTERM, 2 s", "20s a is gone"}, false, ""},
		{"a hook that fails", Request{}, nil, func(r *runtime) {
			r.add("shop", "a", "20", container("main", annotationPreStop, sleeps("soon")))
		}, []string{"0s a/main runs sleep soon for at most 20s", "0s a/main SIGTERM, 20 s", "0s a is gone"}, false, ""},
		{"a hook that cannot be read", Request{}, nil, func(r *runtime) {
			r.add("shop", "a", "20", container("main", annotationPreStop, "{"))
		}, []string{"0s a/main SIGTERM, 20 s", "0s a is gone"}, false, ""},
		{"a hook that sleeps", Request{}, nil, func(r *runtime) {
			r.add("shop", "a", "20", container("main", annotationPreStop, `{"sleep":{"seconds":3}}`))
		}, []string{"3s a/main SIGTERM, 17 s", "3s a is gone"}, false, ""},
		{"no longer than asked for", Request{Grace: 6 * time.Second}, nil, func(r *runtime) {
			r.add("shop", "a", "20", container("main", annotationPreStop, sleeps("5s")))
			r.add("shop", "b", "3", container("main"))
			r.lasts["b/main"] = time.Second
		}, []string{"0s a/main runs sleep 5s for at most 6s", "0s b/main SIGTERM, 3 s", "1s b is gone", "5s a is gone", "5s a/main SIGTERM, 2 s"}, true, ""},
		{"a limit for all keeps time for critical pods", Request{Limit: 40 * time.Second}, nil, func(r *runtime) {
			r.add("kube-system", "dns", "60", container("main"))
			r.add("shop", "a", "60", container("main"))
			r.lasts["a/main"], r.lasts["dns/main"] = time.Hour, time.Hour
		}, []string{"0s a/main SIGTERM, 30 s", "30s a is gone", "30s dns/main SIGTERM, 10 s", "40s dns is gone"}, false, ""},
		{"what does not end is told", Request{}, nil, func(r *runtime) {
			r.add("shop", "a", "1")
			r.lives = 3
		}, []string{"0s a is gone", "0s a is gone", "0s a is gone"}, false, "some pods have not ended"},
		{"what ends in the last round has ended", Request{}, nil, func(r *runtime) {
			r.add("shop", "a", "1")
			r.lives = 2
		}, []string{"0s a is gone", "0s a is gone", "0s a is gone"}, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &runtime{start: time.Now(), lasts: map[string]time.Duration{}}
				tt.fill(r)
				e := &ender{runtime: r, request: tt.request, log: slog.New(slog.DiscardHandler)}
				err := e.run(t.Context(), tt.specs)
				if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				got := r.log
				if tt.parallel { // what happens at the same time has no order
					got = slices.Sorted(slices.Values(r.log))
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
				}
			})
		})
	}
}

func TestHookGet(t *testing.T) {
	asked := make(chan string, 1)
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.Host + r.URL.String() + " " + r.Header.Get("X-Why")
		w.WriteHeader(http.StatusTeapot)
	}))
	defer web.Close()
	at, err := url.Parse(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	e := &ender{runtime: &runtime{}, log: slog.New(slog.DiscardHandler)}
	for _, tt := range []struct{ name, port, ports, want, err string }{
		{"by number", at.Port(), "", "GET pods.example/stop?now=1 end", ""},
		{"by name", `"web"`, `[{"name":"web","containerPort":` + at.Port() + `}]`, "GET pods.example/stop?now=1 end", ""},
		{"by an unknown name", `"web"`, `[{"name":"other","containerPort":1}]`, "", `no port named "web"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := container("main", annotationPorts, tt.ports, annotationPreStop,
				`{"httpGet":{"path":"/stop?now=1","port":`+tt.port+`,"scheme":"HTTPS","httpHeaders":[{"name":"host","value":"pods.example"},{"name":"X-Why","value":"end"}]}}`)
			h, err := preStop(c)
			if err != nil {
				t.Fatal(err)
			}
			err = e.hook(t.Context(), pod{sandbox: "s"}, c, h)
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("error %v, want %q", err, tt.err)
			}
			if tt.err == "" {
				if got := <-asked; got != tt.want {
					t.Errorf("the pod was asked %q, want %q", got, tt.want)
				}
			}
		})
	}
}

func TestSpecsOf(t *testing.T) {
	priority := int32(7)
	client := fake.NewClientset(
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "1"}, Spec: corev1.PodSpec{Priority: &priority}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "static", UID: "2", Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "of-file"}}, Spec: corev1.PodSpec{Priority: &priority}},
	)
	specs, err := specsOf(t.Context(), client, "n")
	if err != nil {
		t.Fatal(err)
	}
	if len(specs) != 2 || specs["1"].priority != 7 || specs["of-file"].priority != 7 {
		t.Errorf("got %+v", specs)
	}
}

func TestPlainStopEndsNoPods(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := New(Config{Endpoint: "unix:///nowhere"}, nil, slog.New(slog.DiscardHandler))
	if err := c.Run(ctx, cancel); err != nil {
		t.Error(err)
	}
	asked, stop := context.WithCancelCause(t.Context())
	stop(fmt.Errorf("asked: %w", &Request{Reason: "test"}))
	c.client = nil
	if err := c.Run(asked, func() {}); err == nil {
		t.Error("a request to end pods did not reach the runtime, which is not there")
	}
}
