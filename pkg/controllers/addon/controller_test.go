package addon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAFileIsFollowed(t *testing.T) {
	b := newBench(t)
	b.write("a.yaml", configMaps("one two"))
	b.start()
	b.waitObjects("ConfigMap default/one=a, ConfigMap default/two=a")
	b.waitStates("a Ready")
	b.write("sub/deep/b.json", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"ns","namespace":"ignored"}}`)
	b.waitObjects("ConfigMap default/one=a, ConfigMap default/two=a, Namespace ns=b")
	b.write("a.yaml", configMaps("one three"))
	b.waitObjects("ConfigMap default/one=a, ConfigMap default/three=a, Namespace ns=b")
	b.write("a.yaml", "") // as after a copy to a full disk
	b.waitStates("a Failed, b Ready")
	b.write("a.yaml", configMaps("one")+"---\nkind: [")
	b.wait("the message", func() string { return b.cluster.message("a") }, "a.yaml document 2, line 6: not YAML: did not find expected node content")
	b.waitObjects("ConfigMap default/one=a, ConfigMap default/three=a, Namespace ns=b")
	b.remove("a.yaml")
	b.remove("sub/deep/b.json")
	b.waitObjects("")
	b.waitStates("")
	if s := b.Summary(); s.Total != 0 {
		t.Errorf("summary is %+v", s)
	}
}

func (f *fake) message(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a := f.addons[name]; a != nil {
		return a.Status.Message
	}
	return ""
}

func (f *fake) count(what *int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *what
}

func (f *fake) setHook(hook func(string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// A restart with nothing changed applies, so that live edits are put back, and writes nothing else.
func TestARestartWritesNothing(t *testing.T) {
	b := newBench(t)
	b.write("a.yaml", configMaps("one two"))
	b.start()
	b.waitStates("a Ready")
	b.stop()
	applied := b.cluster.count(&b.cluster.applies)
	b.cluster.setHook(func(what string) error {
		if !strings.HasPrefix(what, "apply") {
			t.Errorf("changed: %s", what)
		}
		return nil
	})
	b.start()
	b.wait("applies", func() string { return fmt.Sprint(b.cluster.count(&b.cluster.applies)) }, fmt.Sprint(applied+2))
	b.wait("the summary", func() string { return fmt.Sprint(b.Summary().Total, len(b.Summary().Trouble)) }, "1 0")
}

func TestRemovedWhileNotRunning(t *testing.T) {
	b := newBench(t)
	b.write("a.yaml", configMaps("one"))
	b.write("b.yaml", configMaps("two"))
	b.start()
	b.waitStates("a Ready, b Ready")
	b.stop()
	b.remove("a.yaml")
	other := &addon{Spec: spec{Server: "another", Kinds: []string{"v1/ConfigMap"}}, Status: status{State: Ready}}
	other.Name = "other"
	b.cluster.addons["other"] = other // of another server: not ours to remove
	b.start()
	b.waitObjects("ConfigMap default/two=b")
	b.waitStates("b Ready, other Ready")
}

// What moves from one file to another is never deleted.
func TestMoved(t *testing.T) {
	t.Run("to another file", func(t *testing.T) {
		b := newBench(t)
		b.write("a.yaml", configMaps("one two"))
		b.write("b.yaml", configMaps("three"))
		b.start()
		b.waitStates("a Ready, b Ready")
		b.write("b.yaml", configMaps("two three"))
		b.write("a.yaml", configMaps("one"))
		b.waitObjects("ConfigMap default/one=a, ConfigMap default/three=b, ConfigMap default/two=b")
		b.waitStates("a Ready, b Ready")
		if len(b.cluster.deleted) > 0 {
			t.Errorf("deleted %v", b.cluster.deleted)
		}
	})
	t.Run("while not running", func(t *testing.T) {
		b := newBench(t)
		b.write("a.yaml", configMaps("one"))
		b.start()
		b.waitStates("a Ready")
		b.stop()
		b.remove("a.yaml")
		b.write("sub/z.yaml", configMaps("one"))
		b.start()
		b.waitStates("z Ready")
		b.waitObjects("ConfigMap default/one=z")
		if len(b.cluster.deleted) > 0 {
			t.Errorf("deleted %v", b.cluster.deleted)
		}
	})
}

func TestTwoFilesWithOneObject(t *testing.T) {
	b := newBench(t)
	const ns = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: ns}\n"
	b.write("a.yaml", ns+configMaps("one"))
	b.write("b.yaml", ns+configMaps("one two"))
	b.start()
	b.waitObjects("ConfigMap default/one=a, ConfigMap default/two=b, Namespace ns=a")
	b.waitStates("a Ready, b Failed")
	const want = "b.yaml document 2, line 6: ConfigMap one: is in the file of addon a as well, and counts there: take it out of one"
	if got := b.cluster.message("b"); got != want {
		t.Errorf("message %q, want %q", got, want)
	}
	b.remove("a.yaml")
	b.waitObjects("ConfigMap default/one=b, ConfigMap default/two=b, Namespace ns=b")
	b.waitStates("b Ready")
	if len(b.cluster.deleted) > 0 {
		t.Errorf("deleted %v", b.cluster.deleted)
	}
}

// A file that comes to own an object while another file with it is being applied: the other is applied anew.
func TestAFileComesWhileAnotherIsApplied(t *testing.T) {
	b := newBench(t)
	b.write("b.yaml", configMaps("one two"))
	var ones int
	var mu sync.Mutex
	owned := make(chan struct{})
	b.cluster.setHook(func(what string) error {
		switch what {
		case "apply ConfigMap default/one":
			mu.Lock()
			defer mu.Unlock()
			if ones++; ones == 2 {
				close(owned)
			}
		case "apply ConfigMap default/two":
			select {
			case <-owned: // already
			default:
				b.write("a.yaml", configMaps("one"))
				<-owned
			}
		}
		return nil
	})
	b.start()
	b.waitObjects("ConfigMap default/one=a, ConfigMap default/two=b")
	b.waitStates("a Ready, b Failed")
}

// A namespace that another file has objects in stays, and says why, until that file goes, too.
func TestANamespaceInUse(t *testing.T) {
	b := newBench(t)
	b.write("a.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: ns}\n")
	b.write("b.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, namespace: ns}\n")
	b.start()
	b.waitStates("a Ready, b Ready")
	b.remove("a.yaml")
	b.waitStates("a Removing, b Ready")
	b.wait("the message", func() string { return b.cluster.message("a") },
		"the file is gone; 1 objects are left: Namespace ns; namespace ns stays for as long as addon b has objects in it")
	b.waitObjects("ConfigMap ns/one=b, Namespace ns=a")
	b.remove("b.yaml")
	b.waitObjects("")
	b.waitStates("")
}

func TestTwoFilesWithOneName(t *testing.T) {
	b := newBench(t)
	b.write("y/web.yaml", configMaps("one"))
	b.start()
	b.waitStates("web Ready")
	b.write("x/web.yaml", configMaps("two"))
	loser := "web-" + hash("x/web.yaml")
	b.waitStates("web Ready, " + loser + " Conflict")
	b.waitObjects("ConfigMap default/one=web")
	b.remove("y/web.yaml")
	b.waitObjects("ConfigMap default/two=web")
	b.waitStates("web Ready")
}

func TestUnknownKind(t *testing.T) {
	b := newBench(t)
	b.cluster.unknown["Foo"] = true
	b.write("a.yaml", "apiVersion: example.com/v1\nkind: Foo\nmetadata: {name: f}\n"+configMaps("one"))
	b.start()
	b.waitStates("a Waiting")
	b.waitObjects("ConfigMap default/one=a")
	b.wait("a watch", func() string { return fmt.Sprint(b.cluster.count(&b.cluster.watches)) }, "1")
	b.cluster.mu.Lock()
	delete(b.cluster.unknown, "Foo")
	b.cluster.mu.Unlock()
	start := time.Now()
	b.cluster.kick <- "example.com"
	b.waitStates("a Ready")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("noticed after %v", took)
	}
	b.waitObjects("ConfigMap default/one=a, Foo default/f=a")
	if n := len(b.Controller.run.waits.of("")); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

// What one file does wrong, even to the controller, is in no other's way.
func TestTroubleIsOnesOwn(t *testing.T) {
	b := newBench(t)
	hanging := make(chan struct{})
	b.cluster.setHook(func(what string) error {
		switch what {
		case "apply ConfigMap default/panics":
			panic("ouch")
		case "apply ConfigMap default/fails":
			return errors.New("refused")
		case "apply ConfigMap default/hangs":
			<-hanging
		}
		return nil
	})
	for _, name := range []string{"panics", "fails", "hangs", "works"} {
		b.write(name+".yaml", configMaps(name+" "+name+"-too"))
	}
	b.start()
	defer close(hanging)
	b.wait("the summary", func() string {
		var all []string
		for _, tr := range b.Summary().Trouble {
			message, _, _ := strings.Cut(tr.Message, "\n")
			all = append(all, fmt.Sprintf("%s %s %s", tr.Name, tr.State, message))
		}
		return strings.Join(all, "; ")
	}, "fails Failed fails.yaml document 1, line 2: ConfigMap fails: refused; panics Failed panic: ouch")
	for _, want := range []string{"ConfigMap default/works=works", "ConfigMap default/works-too=works", "ConfigMap default/fails-too=fails"} {
		if !strings.Contains(b.cluster.there(), want) {
			t.Errorf("%s is missing in %s", want, b.cluster.there())
		}
	}
}

func TestSkip(t *testing.T) {
	b := newBench(t)
	b.write("a.yaml", configMaps("one two"))
	b.start()
	b.waitStates("a Ready")
	b.write("a.yaml.skip", "")
	b.waitStates("a Skipped")
	b.write("a.yaml", configMaps("three"))
	b.stop()
	b.start()
	b.write("b.yaml", configMaps("four"))
	b.waitStates("a Skipped, b Ready")
	b.waitObjects("ConfigMap default/four=b, ConfigMap default/one=a, ConfigMap default/two=a")
	b.remove("a.yaml.skip")
	b.waitObjects("ConfigMap default/four=b, ConfigMap default/three=a")
}

func TestPatch(t *testing.T) {
	b := newBench(t)
	b.write("a.yaml", configMaps("one two"))
	b.write("a.patch.yaml", configMaps("one")+"data: {k: patched}\n")
	b.start()
	data := func() string {
		b.cluster.mu.Lock()
		defer b.cluster.mu.Unlock()
		o := b.cluster.objects["ConfigMap default/one"]
		return fmt.Sprint(o != nil && strings.Contains(o.data, "patched"))
	}
	b.wait("the patch", data, "true")
	b.waitStates("a Ready")
	b.write("a.patch.yaml", configMaps("one")+"data: {k: patched}\n"+configMaps("three"))
	b.waitStates("a Failed")
	b.wait("the message", func() string { return b.cluster.message("a") }, "a.patch.yaml document 2, line 7: ConfigMap three: there is no such object to patch")
	b.write("a.patch.yaml", configMaps("two")+"$patch: delete\n")
	b.waitObjects("ConfigMap default/one=a")
	b.wait("no patch", data, "false")
	b.remove("a.patch.yaml")
	b.waitObjects("ConfigMap default/one=a, ConfigMap default/two=a")
	b.waitStates("a Ready")
}

func TestSwitch(t *testing.T) {
	b := newBench(t)
	b.write("a.yaml", configMaps("one")+"---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, annotations: {"+OnDemand+": \"true\"}}\n")
	b.start()
	b.waitStates("a Ready")
	b.waitObjects("ConfigMap default/one=a")
	b.Switch("a", true)
	b.waitObjects("ConfigMap default/one=a, Pod default/p=a")
	b.waitStates("a Ready")
	b.stop()
	b.start() // nobody has said anything yet: what is in use stays
	b.write("z.yaml", configMaps("z"))
	b.waitStates("a Ready, z Ready")
	b.write("a.yaml", configMaps("two")+"---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, annotations: {"+OnDemand+": \"true\"}}\n")
	b.waitObjects("ConfigMap default/two=a, ConfigMap default/z=z, Pod default/p=a")
	b.Switch("a", false)
	b.waitObjects("ConfigMap default/two=a, ConfigMap default/z=z")
	b.Switch("a", true)
	b.waitObjects("ConfigMap default/two=a, ConfigMap default/z=z, Pod default/p=a")
	if slices.Contains(b.cluster.deleted, "ConfigMap default/z") {
		t.Error("another file was touched")
	}
}

// Removal is in the reverse order of making, and says what it waits for.
func TestRemoval(t *testing.T) {
	b := newBench(t)
	b.write("a.yaml", `
apiVersion: v1
kind: Namespace
metadata: {name: ns}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: foos.example.com}
---
apiVersion: example.com/v1
kind: Foo
metadata: {name: f, namespace: ns}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d, namespace: ns}
---
apiVersion: v1
kind: Namespace
metadata: {name: kube-system}
`)
	b.start()
	b.waitStates("a Ready")
	b.cluster.mu.Lock()
	b.cluster.objects["Foo ns/f"].heldByFinalizers = true
	b.cluster.mu.Unlock()
	b.remove("a.yaml")
	b.wait("the message", func() string {
		if m := b.cluster.message("a"); strings.Contains(m, "Foo ns/f") {
			return "names what is left"
		}
		return ""
	}, "names what is left")
	if len(b.cluster.deleted) > 0 {
		t.Errorf("deleted before the custom resource is gone: %v", b.cluster.deleted)
	}
	b.cluster.mu.Lock()
	b.cluster.objects["Foo ns/f"].heldByFinalizers = false
	delete(b.cluster.objects, "Foo ns/f")
	b.cluster.mu.Unlock()
	b.waitStates("")
	b.waitObjects("Namespace kube-system=a")
	if want := []string{"Deployment ns/d", "CustomResourceDefinition foos.example.com", "Namespace ns"}; !slices.Equal(b.cluster.deleted, want) {
		t.Errorf("deleted %v, want %v", b.cluster.deleted, want)
	}
}

func TestAddonDeletedByHand(t *testing.T) {
	b := newBench(t)
	b.write("a.yaml", configMaps("one"))
	b.start()
	b.waitStates("a Ready")
	if err := b.cluster.forget(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	b.remove("a.yaml")
	b.waitObjects("")
}

// A fault of the directory is told by Check, and mended when that can be.
func TestAFaultOfTheDirectory(t *testing.T) {
	b := newBench(t)
	b.config.Packaged = []Packaged{{"way/in.yaml", "way", func() ([]byte, error) { return []byte(configMaps("in")), nil }}}
	b.write("way", "a file where a folder is to be")
	b.write("a.yaml", configMaps("one"))
	b.start()
	b.waitObjects("ConfigMap default/one=a")
	b.wait("the fault", func() string { return fmt.Sprint(b.Check(t.Context()) != nil) }, "true")
	b.remove("way")
	b.wait("no fault", func() string { return fmt.Sprint(b.Check(t.Context()) != nil) }, "false")
	b.waitObjects("ConfigMap default/in=in, ConfigMap default/one=a")
	if err := os.RemoveAll(b.config.Dir); err != nil {
		t.Fatal(err)
	}
	b.wait("the packaged file", func() string {
		_, err := os.Stat(filepath.Join(b.config.Dir, "way/in.yaml"))
		return fmt.Sprint(err)
	}, "<nil>")
	b.waitObjects("ConfigMap default/in=in")
	if slices.Contains(b.cluster.deleted, "ConfigMap default/in") {
		t.Error("what the packaged file makes was deleted in between")
	}
}

// Ten thousand objects do not keep another file waiting, and one that is refused does not have all applied again.
func TestTenThousandObjects(t *testing.T) {
	b := newBench(t)
	var many strings.Builder
	for i := range 10000 {
		fmt.Fprintf(&many, "many-%d ", i)
	}
	small := make(chan struct{})
	b.cluster.setHook(func(what string) error {
		switch what {
		case "apply ConfigMap default/small":
			close(small)
		case "apply ConfigMap default/many-5000":
			<-small // half of them only after the small file
			return errors.New("refused")
		}
		return nil
	})
	b.write("many.yaml", configMaps(many.String()))
	b.start()
	b.wait("half", func() string { return fmt.Sprint(b.cluster.count(&b.cluster.applies) >= 5000) }, "true")
	b.write("small.yaml", configMaps("small"))
	b.waitStates("many Failed, small Ready")
	const want = "many.yaml document 5001, line 20002: ConfigMap many-5000: refused"
	if got := b.cluster.message("many"); got != want {
		t.Errorf("message %q, want %q", got, want)
	}
	if n := b.cluster.count(&b.cluster.applies); n != 10000 {
		t.Errorf("%d objects were applied, want 10000", n)
	}
	b.cluster.setHook(nil)
	b.waitStates("many Ready, small Ready")
	if n := b.cluster.count(&b.cluster.applies); n != 10001 {
		t.Errorf("after another try %d objects were applied, want one more", n)
	}
	b.write("many.yaml", configMaps("many-1"))
	b.waitObjects("ConfigMap default/many-1=many, ConfigMap default/small=small")
}

// The contract of a component.
func TestStopsWhileTheAPIIsAway(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	b.cluster.setHook(func(string) error { cancel(); return errors.New("connection refused") })
	b.write("a.yaml", configMaps("one"))
	if err := New(b.config, API{}, slog.New(slog.DiscardHandler)).live(ctx, b.cluster, func() {}); err != nil {
		t.Error(err)
	}
}
