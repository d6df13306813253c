package addon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// fake is a cluster in memory. It outlives the controllers that tests kill.
type fake struct {
	mu      sync.Mutex
	objects map[string]*fakeObject // by "Kind namespace/name"
	addons  map[string]*addon
	unknown map[string]bool // kinds
	deleted []string
	events  []string
	applies int
	watches int
	uid     int
	// hook is called before each change with what is to be done; its error is the answer.
	hook func(what string) error
	kick chan string // groups to tell the watch of
}

type fakeObject struct {
	kind             schema.GroupVersionKind
	item             item
	label, data      string
	heldByFinalizers bool
}

func newFake() *fake {
	return &fake{objects: make(map[string]*fakeObject), addons: make(map[string]*addon), unknown: make(map[string]bool), kick: make(chan string, 8)}
}

// change runs fn as one change of the cluster.
func (f *fake) change(ctx context.Context, what string, fn func()) error {
	f.mu.Lock()
	hook := f.hook
	f.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if hook != nil {
		if err := hook(what); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
	return nil
}

func (f *fake) resource(_ context.Context, kind schema.GroupVersionKind) (resource, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unknown[kind.Kind] {
		return resource{}, errNoKind
	}
	cluster := []string{"Namespace", "CustomResourceDefinition", "ClusterRole"}
	return resource{kind.GroupVersion().WithResource(strings.ToLower(kind.Kind) + "s"), kind.GroupKind(), !slices.Contains(cluster, kind.Kind)}, nil
}

func (f *fake) served(ctx context.Context, kind schema.GroupVersionKind) (resource, error) {
	return f.resource(ctx, kind)
}

func (f *fake) apply(ctx context.Context, r resource, namespace, name string, data []byte) error {
	id := title(r.kind.Kind, namespace, name)
	var o unstructured.Unstructured
	if err := json.Unmarshal(data, &o.Object); err != nil {
		return err
	}
	return f.change(ctx, "apply "+id, func() {
		f.applies++
		if f.objects[id] == nil {
			f.uid++
			f.objects[id] = &fakeObject{kind: r.GroupVersion().WithKind(r.kind.Kind), item: item{namespace, name, types.UID(fmt.Sprint(f.uid)), false}}
		}
		f.objects[id].label, f.objects[id].data = o.GetLabels()[Label], string(data)
	})
}

func (f *fake) labelled(_ context.Context, r resource, addon string) ([]item, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var items []item
	for _, id := range slices.Sorted(maps.Keys(f.objects)) {
		if o := f.objects[id]; o.kind.GroupKind() == r.kind && o.label == addon {
			items = append(items, o.item)
		}
	}
	return items, nil
}

func (f *fake) remove(ctx context.Context, r resource, i item) error {
	id := title(r.kind.Kind, i.namespace, i.name)
	return f.change(ctx, "delete "+id, func() {
		if o := f.objects[id]; o == nil || o.item.uid != i.uid || o.heldByFinalizers {
			return
		}
		f.deleted = append(f.deleted, id)
		delete(f.objects, id)
	})
}

func (f *fake) install(context.Context) error { return nil }

func (f *fake) list(context.Context) ([]addon, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []addon
	for _, a := range f.addons {
		all = append(all, *a)
	}
	return all, nil
}

func (f *fake) get(_ context.Context, name string) (*addon, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a := f.addons[name]; a != nil {
		c := *a
		return &c, nil
	}
	return nil, nil
}

func (f *fake) saveSpec(ctx context.Context, name string, s spec) (types.UID, error) {
	return types.UID(name), f.change(ctx, "spec of "+name, func() {
		if f.addons[name] == nil {
			f.addons[name] = &addon{}
			f.addons[name].Name, f.addons[name].UID = name, types.UID(name)
		}
		f.addons[name].Spec = s
	})
}

func (f *fake) saveStatus(ctx context.Context, name string, s status) error {
	return f.change(ctx, "status of "+name, func() {
		if f.addons[name] != nil {
			f.addons[name].Status = s
		}
	})
}

func (f *fake) forget(ctx context.Context, name string) error {
	return f.change(ctx, "forget "+name, func() { delete(f.addons, name) })
}

func (f *fake) watchKinds(ctx context.Context, changed func(string)) error {
	f.mu.Lock()
	f.watches++
	f.mu.Unlock()
	changed("")
	for {
		select {
		case <-ctx.Done():
			return nil
		case group := <-f.kick:
			changed(group)
		}
	}
}

func (f *fake) event(name string, _ types.UID, kind, reason, message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, strings.Join([]string{name, kind, reason, message}, " "))
}

// there are the objects, each with the Addon it belongs to.
func (f *fake) there() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, id := range slices.Sorted(maps.Keys(f.objects)) {
		all = append(all, id+"="+f.objects[id].label)
	}
	return strings.Join(all, ", ")
}

// states are the Addons and how they are.
func (f *fake) states() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, name := range slices.Sorted(maps.Keys(f.addons)) {
		all = append(all, fmt.Sprintf("%s %s", name, f.addons[name].Status.State))
	}
	return strings.Join(all, ", ")
}

// bench is a directory with a cluster, and a controller between them.
type bench struct {
	t       *testing.T
	config  Config
	cluster *fake
	*Controller
	stop func()
}

func newBench(t *testing.T) *bench {
	t.Parallel()
	b := &bench{t: t, config: Config{Dir: t.TempDir(), Server: "me"}, cluster: newFake(), stop: func() {}}
	t.Cleanup(func() { b.stop() })
	return b
}

func (b *bench) write(file, text string) {
	b.t.Helper()
	name := filepath.Join(b.config.Dir, file)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text), 0o600)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) remove(file string) {
	b.t.Helper()
	if err := os.Remove(filepath.Join(b.config.Dir, file)); err != nil {
		b.t.Fatal(err)
	}
}

// start makes a new controller and lets it live; killed is closed when it has ended.
func (b *bench) start() (killed <-chan struct{}) {
	b.t.Helper()
	b.stop()
	ctx, cancel := context.WithCancel(b.t.Context())
	b.Controller = New(b.config, API{}, slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	c := b.Controller
	go func() {
		defer close(done)
		if err := c.live(ctx, b.cluster, func() {}); err != nil && ctx.Err() == nil {
			b.t.Errorf("the controller ended: %v", err)
		}
	}()
	b.stop = func() { cancel(); <-done }
	return done
}

// wait waits until what is there is as it should be.
func (b *bench) wait(what string, got func() string, want string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for got() != want {
		select {
		case <-tick.C:
		case <-ctx.Done():
			b.t.Fatalf("%s:\ngot  %s\nwant %s\naddons: %s\n%+v", what, got(), want, b.cluster.states(), b.Summary())
		}
	}
}

func (b *bench) waitObjects(want string) {
	b.t.Helper()
	b.wait("objects", b.cluster.there, want)
}

func (b *bench) waitStates(want string) {
	b.t.Helper()
	b.wait("states", b.cluster.states, want)
}

// configMaps is a manifest of ConfigMaps in the default namespace, as "a b c".
func configMaps(names string) string {
	var b strings.Builder
	for _, n := range strings.Fields(names) {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n", n)
	}
	return b.String()
}
