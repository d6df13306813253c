package addon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKilled kills the controller before each of the changes it makes for a new content, changes the file, and starts it
// again: nothing may be left over, whatever the moment.
func TestKilled(t *testing.T) {
	t.Parallel()
	const foo = "---\napiVersion: example.com/v1\nkind: Foo\nmetadata: {name: f}\n"
	const other, a = "ConfigMap default/other=other", "ConfigMap default/%s=a, "
	first := configMaps("zero")
	for at := range 11 {
		for name, then := range map[string]struct{ text, objects, states string }{
			"another content":     {configMaps("one four"), fmt.Sprintf(a+a, "four", "one") + other, "a Ready, other Ready"},
			"back as it was":      {first, other + ", ConfigMap default/zero=a", "a Ready, other Ready"},
			"the file is removed": {"", other, "other Ready"},
		} {
			t.Run(fmt.Sprintf("before change %d, then %s", at, name), func(t *testing.T) {
				b := newBench(t)
				b.write("other.yaml", configMaps("other"))
				b.write("a.yaml", first)
				b.start()
				b.waitStates("a Ready, other Ready")
				b.stop()
				b.write("a.yaml", configMaps("one two three")+foo)
				changes := 0
				b.cluster.setHook(func(what string) error {
					b.cluster.mu.Lock()
					defer b.cluster.mu.Unlock()
					if strings.Contains(what, "other") {
						return nil
					}
					if changes++; changes > at {
						return errors.New("killed")
					}
					return nil
				})
				b.start()
				b.wait("the kill", func() string {
					return fmt.Sprint(b.cluster.count(&changes) > at || strings.HasPrefix(b.cluster.states(), "a Ready"))
				}, "true")
				b.stop()
				b.cluster.setHook(nil)
				if then.text == "" {
					b.remove("a.yaml")
				} else {
					b.write("a.yaml", then.text)
				}
				b.start()
				b.waitStates(then.states)
				b.waitObjects(then.objects)
			})
		}
	}
}

// A file that is written to without end is in no other's way.
func TestAFileThatNeverSettles(t *testing.T) {
	b := newBench(t)
	b.start()
	busy, err := os.Create(filepath.Join(b.config.Dir, "busy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if _, err := fmt.Fprintln(busy, "# more"); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	b.write("a.yaml", configMaps("one"))
	b.waitObjects("ConfigMap default/one=a")
	close(stop)
	<-done
	b.waitStates("a Ready, busy Ready")
}
