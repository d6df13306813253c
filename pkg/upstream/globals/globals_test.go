package globals

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	clog "github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.opentelemetry.io/otel"
	"go.uber.org/zap"
	"google.golang.org/grpc/grpclog"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
	"k8s.io/klog/v2"
	controlplane "k8s.io/kubernetes/pkg/controlplane/apiserver"
)

// recorder keeps records as "LEVEL component message key=value ...".
type recorder struct {
	mu    sync.Mutex
	lines []string
	files []string
}

func (*recorder) Enabled(context.Context, slog.Level) bool { return false } // must not be asked

func (r *recorder) Handle(_ context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	component, attrs := "-", ""
	rec.Attrs(func(a slog.Attr) bool {
		if a.Key == componentKey {
			component = a.Value.String()
		} else {
			attrs += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		}
		return true
	})
	frame, _ := runtime.CallersFrames([]uintptr{rec.PC}).Next()
	r.files = append(r.files, filepath.Base(frame.File))
	r.lines = append(r.lines, fmt.Sprintf("%v %s %s%s", rec.Level, component, rec.Message, attrs))
	return nil
}

func (r *recorder) WithAttrs([]slog.Attr) slog.Handler { panic("attributes are the bridges' to keep") }
func (r *recorder) WithGroup(string) slog.Handler      { panic("no bridge opens a group") }

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lines
	r.lines, r.files = nil, nil
	return l
}

// bridged installs all bridges. Tests that use it cannot run in parallel.
func bridged(t *testing.T, verbosity int, vmodule ...string) *recorder {
	t.Helper()
	r := &recorder{}
	b := bridge{handler: r, verbosity: verbosity, start: time.Now()}
	if len(vmodule) > 0 {
		b.verbosity = max(1, verbosity)
	}
	if err := b.useKlog(verbosity, vmodule); err != nil {
		t.Fatal(err)
	}
	logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{})
	b.useLogrus()
	b.useGRPC()
	b.useZap()
	b.useStandard()
	b.useOTel()
	return r
}

// say makes each library speak at each of its levels.
func say() {
	err := errors.New("boom")
	contextual := klog.FromContext(klog.NewContext(context.Background(),
		klog.LoggerWithValues(klog.LoggerWithName(klog.Background(), "gc"), "worker", 1)))
	contextual.Info("contextual info")
	contextual.V(2).Info("contextual v2")
	contextual.V(4).Info("contextual v4", "pod", klog.KRef("ns", "p"))
	contextual.Error(err, "contextual error", "pod", klog.KRef("ns", "p"))
	klog.InfoS("structured info", "a", 1)
	klog.V(4).InfoS("structured v4")
	klog.ErrorS(err, "structured error")
	klog.Infof("plain %s", "info")
	klog.V(4).Info("plain v4")
	klog.Warningf("plain %s", "warning")
	klog.Error("plain error] with a bracket\nand a second line")
	utilruntime.HandleErrorWithContext(context.Background(), err, "handled")

	logrus.Debug("logrus debug")
	logrus.WithField("z", 1).WithError(err).Info("logrus info")
	clog.G(context.Background()).WithField("ns", "k8s.io").Warn("containerd warning")
	clog.L.Error("containerd error")

	g := grpclog.Component("core")
	g.Info("grpc info")
	g.Warningf("grpc %s", "warning")
	g.Error("grpc error")

	log.Print("standard")
	log.Print("http: TLS handshake error from 10.0.0.1:1: EOF")
	slog.Info("default info")
	slog.Warn("default warning", "a", 1)
	otel.Handle(err)
}

// TestNoSecretIsLogged has kine's words for requests that failed.
func TestNoSecretIsLogged(t *testing.T) {
	put := &etcdserverpb.PutRequest{Key: []byte("/registry/secrets/default/a"), Value: []byte("k8s\x00\"\\hunter2\"\n")}
	txn := &etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: put}}}}
	for _, m := range []string{fmt.Sprintf("error in put %s: %v", put, io.EOF), fmt.Sprintf("error in txn %s: %v", txn, io.EOF)} {
		said := withoutValues(m)
		if strings.Contains(said, "hunter2") || !strings.Contains(said, "/registry/secrets/default/a") || !strings.HasSuffix(said, ": EOF") {
			t.Errorf("it says %s", said)
		}
	}
	if other := `something else value:"1"`; withoutValues(other) != other {
		t.Errorf("another message became %s", withoutValues(other))
	}
}

func TestBridges(t *testing.T) {
	quiet := []string{
		"ERROR knarr contextual error logger=gc err=boom worker=1 pod=ns/p",
		"ERROR knarr structured error err=boom",
		"WARN knarr plain warning",
		"ERROR knarr plain error] with a bracket\nand a second line",
		"ERROR knarr handled logger=UnhandledError err=boom",
		"WARN knarr containerd warning ns=k8s.io",
		"ERROR knarr containerd error",
		"ERROR grpc [core] grpc error",
		"WARN knarr standard",
		"WARN knarr default warning a=1",
		"WARN opentelemetry export of traces failed err=boom",
	}
	info := []string{
		"INFO knarr contextual info logger=gc worker=1",
		"INFO knarr structured info a=1",
		"INFO knarr plain info",
		"INFO knarr logrus info error=boom z=1",
		"INFO grpc [core] grpc warning",
		"INFO knarr http: TLS handshake error from 10.0.0.1:1: EOF",
		"INFO knarr default info",
	}
	verbose := []string{
		"DEBUG+2 knarr contextual v2 logger=gc worker=1",
		"DEBUG knarr contextual v4 logger=gc worker=1 pod=ns/p",
		"DEBUG knarr structured v4",
		"INFO knarr plain v4",
		"DEBUG knarr logrus debug",
	}
	for _, test := range []struct {
		name      string
		verbosity int
		vmodule   []string
		want      []string
	}{
		{name: "by default warnings and errors", want: quiet},
		{name: "v=1 adds info", verbosity: 1, want: slices.Concat(quiet, info)},
		{name: "v=4 adds debug", verbosity: 4, want: slices.Concat(quiet, info, verbose)},
		{name: "vmodule adds one file's", vmodule: []string{"globals_test=2"}, want: slices.Concat(quiet, info, verbose[:1])},
		{name: "vmodule of another file adds none", vmodule: []string{"other=9"}, want: slices.Concat(quiet, info)},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := bridged(t, test.verbosity, test.vmodule...)
			say()
			files, got := r.files, r.take()
			for i, f := range files {
				if f != "globals_test.go" && !strings.Contains(got[i], " grpc ") && !strings.Contains(got[i], "opentelemetry") {
					t.Errorf("%q is said to come from %s", got[i], f)
				}
			}
			slices.Sort(got)
			want := slices.Sorted(slices.Values(test.want))
			if !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func TestSuppressedRecordsAreCheap(t *testing.T) {
	r := bridged(t, 0)
	contextual := klog.Background()
	for name, say := range map[string]func(){
		"contextual": func() { contextual.Info("x") },
		"v":          func() { klog.V(2).Info("x") },
		"logrus":     func() { logrus.Info("x") },
	} {
		if n := testing.AllocsPerRun(100, say); n > 2 {
			t.Errorf("%s: %v allocations for a record that is not written", name, n)
		}
	}
	if got := r.take(); got != nil {
		t.Errorf("written all the same: %q", got)
	}
}

func TestComponentOfFunction(t *testing.T) {
	for function, want := range map[string]string{
		"k8s.io/kubernetes/pkg/kubelet.(*Kubelet).syncPod":                            "kubelet",
		"k8s.io/kubernetes/pkg/kubelet/cm.(*containerManagerImpl).Start":              "kubelet",
		"k8s.io/kubernetes/pkg/scheduler.(*Scheduler).ScheduleOne":                    "kube-scheduler",
		"k8s.io/kubernetes/pkg/controller/garbagecollector.(*GarbageCollector).Run":   "kube-controller-manager",
		"k8s.io/kubernetes/pkg/controlplane/controller/leaderelection.NewLeaseCandid": "kube-apiserver",
		"k8s.io/kubernetes/pkg/proxy/nftables.(*Proxier).syncProxyRules":              "kube-proxy",
		"k8s.io/client-go/tools/cache.(*Reflector).Run":                               "client-go",
		"github.com/containerd/containerd/v2/internal/cri/server.(*criService).Run":   "containerd",
		"github.com/knarr-io/knarr/pkg/upstream/kubelet.load":                         "kubelet",
		"github.com/knarr-io/knarr/pkg/server.Assemble":                               "knarr",
		"k8s.io/apimachinery/pkg/util/runtime.HandleError":                            "",
		"main.main": "",
	} {
		if got := componentOfFunction(function); got != want {
			t.Errorf("componentOfFunction(%q) = %q, want %q", function, got, want)
		}
	}
}

// TestUpstreamIsRecognised has real upstream code speak.
func TestUpstreamIsRecognised(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	synctest.Test(t, func(t *testing.T) {
		r := bridged(t, 4)
		if _, err := clientcmd.BuildConfigFromFlags("", ""); err == nil {
			t.Error("a configuration out of nothing")
		}
		token := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(token, []byte("t"), 0o600); err != nil {
			t.Fatal(err)
		}
		source := transport.NewCachedFileTokenSource(token)
		if _, err := source.Token(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(token); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour)
		if _, err := source.Token(); err != nil {
			t.Fatal(err)
		}

		got := r.take()
		for i, want := range []string{
			"WARN client-go Neither --kubeconfig nor --master was specified",
			"WARN client-go error creating inClusterConfig",
			"ERROR client-go Unable to rotate token",
		} {
			if i >= len(got) || !strings.HasPrefix(got[i], want) {
				t.Errorf("got\n%s\nwhere record %d should be %q", strings.Join(got, "\n"), i, want)
			}
		}
	})
}

// TestEtcdClientsLogger fails when upstream's variable has another name: then the one
// that is declared here is nobody's.
func TestEtcdClientsLogger(t *testing.T) {
	if etcd3ClientLogger == nil {
		t.Fatal("k8s.io/apiserver's factory has no variable etcd3ClientLogger; see zap.go")
	}
	for _, verbosity := range []int{0, 1, verbosityDebug} {
		r := bridged(t, verbosity)
		l := etcd3ClientLogger.With(zap.String("target", "t"))
		l.Debug("d")
		l.Info("i")
		l.Warn("w", zap.Int("attempt", 1), zap.Error(errors.New("boom")))
		l.Error("e")
		if err := l.Sync(); err != nil {
			t.Error(err)
		}
		want := []string{"WARN kube-apiserver w logger=etcd-client attempt=1 error=boom target=t", "ERROR kube-apiserver e logger=etcd-client target=t"}
		if verbosity > 0 {
			want = slices.Insert(want, 0, "INFO kube-apiserver i logger=etcd-client target=t")
		}
		if verbosity >= verbosityDebug {
			want = slices.Insert(want, 0, "DEBUG kube-apiserver d logger=etcd-client target=t")
		}
		if got := r.take(); !slices.Equal(got, want) {
			t.Errorf("verbosity %d: got %q, want %q", verbosity, got, want)
		}
	}
}

func TestContextNamesTheComponent(t *testing.T) {
	r := bridged(t, 0)
	ctx := Context(context.Background(), "kubelet")
	klog.LoggerWithName(klog.FromContext(ctx), "reflector").Error(errors.New("boom"), "list failed", "a", 1)
	utilruntime.HandleErrorWithContext(ctx, errors.New("boom"), "handled")
	want := []string{
		"ERROR kubelet list failed logger=reflector err=boom a=1",
		"ERROR kubelet handled logger=UnhandledError err=boom",
	}
	if got := r.take(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestKlogLineOfUnknownForm(t *testing.T) {
	r := &recorder{}
	b := bridge{handler: r}
	b.writeKlogLine(nil)
	b.writeKlogLine([]byte("no header\n"))
	b.writeKlogLine([]byte("X no header either] really\n"))
	want := []string{"WARN knarr no header", "WARN knarr X no header either] really"}
	if got := r.take(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestApply is the only one that calls Apply and ApplyFeatureGates: that they work
// once is the point.
func TestApply(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tmp")
	if err := os.MkdirAll(filepath.Join(dir, "left", "over"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", os.Getenv("PATH")) // restored afterwards
	t.Setenv("TMPDIR", os.TempDir())
	before := syscall.Umask(0o077)
	limit, percent := debug.SetMemoryLimit(-1), debug.SetGCPercent(100)
	t.Cleanup(func() {
		applied.Store(false) // for -count
		gated.Store(false)
		syscall.Umask(before)
		debug.SetMemoryLimit(limit)
		debug.SetGCPercent(percent)
	})
	logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{})

	c := Config{
		Handler: &recorderAny{}, VModule: []string{"a=1", "b*=2"},
		PATH: "/nowhere:" + os.Getenv("PATH"), TempDir: dir, OOMScoreAdj: -1, GCPercent: 50, MemoryLimit: 1 << 40,
	}
	if err := Apply(c); err != nil {
		t.Fatal(err)
	}
	if err := Apply(c); err == nil {
		t.Error("Apply worked twice")
	}
	if got := os.Getenv("PATH"); !strings.HasPrefix(got, "/nowhere:") {
		t.Errorf("PATH = %q", got)
	}
	if got := os.TempDir(); got != dir {
		t.Errorf("os.TempDir() = %q, want %q", got, dir)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the directory for temporary files holds %v (%v)", left, err)
	}
	if got := syscall.Umask(umask); got != umask {
		t.Errorf("umask %#o, want %#o", got, umask)
	}
	if got := debug.SetMemoryLimit(-1); got != 1<<40 {
		t.Errorf("memory limit %d", got)
	}
	if got := debug.SetGCPercent(100); got != 50 {
		t.Errorf("GC percentage %d", got)
	}

	lease := time.Duration(controlplane.IdentityLeaseDurationSeconds) * time.Second
	if got := controlplane.IdentityLeaseRenewIntervalPeriod; got != identityRenewal || 3*got > lease {
		t.Errorf("kube-apiserver's lease of %v is renewed every %v", lease, got)
	}

	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(nil); err != nil {
		t.Fatal(err)
	}
	if err := ApplyFeatureGates(); err != nil {
		t.Fatal(err)
	}
	if err := ApplyFeatureGates(); err == nil {
		t.Error("ApplyFeatureGates worked twice")
	}
	// SetFallback warns when Set was not called.
	r := bridged(t, 0)
	if err := compatibility.DefaultComponentGlobalsRegistry.SetFallback(); err != nil || len(r.take()) > 0 {
		t.Errorf("the registry is not set: %v", err)
	}
}

// recorderAny is a recorder that may be used as a handler in full.
type recorderAny struct{ recorder }

func (*recorderAny) Enabled(context.Context, slog.Level) bool { return true }

func TestBadVModule(t *testing.T) {
	b := bridge{handler: &recorder{}}
	if err := b.useKlog(0, []string{"nonsense"}); err == nil || !strings.Contains(err.Error(), "-vmodule") {
		t.Errorf("error %v, want one about -vmodule", err)
	}
}
