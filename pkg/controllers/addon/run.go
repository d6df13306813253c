package addon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/client-go/util/workqueue"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// run is one life of the controller.
type run struct {
	controller *Controller
	config     Config
	cluster    cluster
	log        *slog.Logger
	queue      workqueue.TypedRateLimitingInterface[string]
	claims     *claims
	waits      *waits

	// Used by follow alone.
	restored map[string]stamp // packaged files as they were written
	broken   error            // what the last tend has failed on
	tended   time.Time        // when that was

	mu      sync.Mutex
	sources map[string]source    // by name of the Addon
	changed map[string]time.Time // when the file or its patch last changed
	loaded  map[string][2]stamp  // what has been read of it
	holders map[string]string    // which file an Addon is for, below the directory
	kinds   map[string][]string  // of what kinds the objects of a file are
	going   map[string]progress  // how far the file has been applied as it is
	dropped map[string]int       // how often that was dropped, to have all applied anew
	begun   bool                 // sources is not merely empty
}

const (
	// gather is for how long events are gathered before the directory is looked at.
	gather = 50 * time.Millisecond
	// repair is when what could not be done to the directory is tried again.
	repair = 10 * time.Second
)

// begin makes the directory what it should be and finds out what there is in the cluster.
func (r *run) begin(ctx context.Context) error {
	if err := atomicfile.MkdirAll(r.config.Dir, 0o700); err != nil {
		return err
	}
	if err := r.cluster.install(ctx); err != nil {
		return err
	}
	known, err := r.cluster.list(ctx)
	if err != nil {
		return err
	}
	for _, a := range known {
		if a.Spec.Server != r.config.Server {
			continue
		}
		if rel, err := filepath.Rel(r.config.Dir, a.Spec.Source); err == nil {
			r.holders[a.Name] = filepath.ToSlash(rel)
		}
		r.controller.say(a.Name, &a.Status)
		r.queue.Add(a.Name) // the file may have gone; it waits until all files are known
	}
	return nil
}

// follow looks at the directory, at first and whenever something in it changes.
func (r *run) follow(ctx context.Context, ready func()) (err error) {
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w; raise the sysctl fs.inotify.max_user_instances if it is used up", r.config.Dir, err)
	}
	defer func() { err = errors.Join(err, watch.Close()) }()
	t := newTree(r.config.Dir)
	look := time.NewTimer(never)
	defer look.Stop()
	due := time.Now().Add(never)
	// sooner never postpones: a file that is written to all the time must not keep others from being seen.
	sooner := func(after time.Duration) {
		if at := time.Now().Add(after); at.Before(due) {
			due = at
			look.Reset(after)
		}
	}
	sooner(r.look(t, watch))
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-watch.Events:
			// What is hidden is of no concern, temporary files of knarr's own above all.
			if !strings.HasPrefix(filepath.Base(e.Name), ".") {
				sooner(gather)
			}
		case err := <-watch.Errors: // events were lost
			r.log.Warn("watching the manifests had a hiccup", "directory", r.config.Dir, "error", err)
			sooner(gather)
		case <-look.C:
			due = time.Now().Add(never)
			sooner(r.look(t, watch))
		}
	}
}

// never is longer than a process lives.
const never = 100 * 365 * 24 * time.Hour

// look takes in what has changed, and returns when to look again if no event comes before.
func (r *run) look(t *tree, watch *fsnotify.Watcher) time.Duration {
	first := !t.begun
	var err error
	if first {
		err = r.prepare(t)
	}
	due, scanErr := t.scan(time.Now())
	if errors.Is(scanErr, errNoDir) {
		if scanErr = atomicfile.MkdirAll(r.config.Dir, 0o700); scanErr == nil {
			due = time.Now()
		}
	} else if scanErr == nil {
		// What came into a directory before it was watched makes no event.
		added, watchErr := follow(watch, t.dirs)
		if added && !first {
			due = time.Now()
		}
		err = errors.Join(err, watchErr, r.tend(t.settled()))
		r.take(t)
	}
	err = errors.Join(err, scanErr)
	if r.controller.note(err) && err != nil {
		r.log.Error("the manifests are not all in force; trying again", "directory", r.config.Dir, "error", err)
	}
	switch {
	case !due.IsZero():
		return max(0, time.Until(due))
	case err != nil:
		return repair
	case first:
		return 0 // for what changed between the scan and the watch
	default:
		return never + time.Second
	}
}

// prepare makes the directory what it should be before it is looked at for the first time.
func (r *run) prepare(t *tree) error {
	files, err := t.walk()
	if err != nil {
		return nil // the scan says so as well
	}
	errs := []error{r.config.removeStale(files), r.tend(files)}
	for _, dir := range t.dirs {
		errs = append(errs, atomicfile.RemoveTemps(dir))
	}
	return errors.Join(errs...)
}

// tend puts packaged files back. What has failed is tried again only after a while, whatever else happens.
func (r *run) tend(files map[string]stamp) error {
	if r.broken != nil && time.Since(r.tended) < repair {
		return r.broken
	}
	edited, err := r.config.restore(files, r.restored)
	for _, file := range edited {
		stem, _ := base(file)
		r.log.Warn("a packaged manifest was edited and is put back; changes belong into a patch beside it",
			"file", file, "patch", stem+patchSuffix+suffixes[0], "copy", file+editedSuffix)
	}
	r.broken, r.tended = err, time.Now()
	return err
}

// follow has all directories watched, and reports whether one was not.
func follow(watch *fsnotify.Watcher, dirs []string) (added bool, err error) {
	watched := watch.WatchList()
	for _, old := range watched {
		if !slices.Contains(dirs, old) {
			_ = watch.Remove(old) // fails when the directory is gone, and then there is nothing to remove
		}
	}
	var errs []error
	for _, dir := range dirs {
		if slices.Contains(watched, dir) {
			continue
		}
		added = true
		if err := watch.Add(dir); err != nil {
			errs = append(errs, fmt.Errorf("watch %s: %w; raise the sysctl fs.inotify.max_user_watches if it is used up", dir, err))
		}
	}
	return added, errors.Join(errs...)
}

// take makes the settled files the sources, and has those dealt with that have changed.
func (r *run) take(t *tree) {
	r.mu.Lock()
	before := r.sources
	r.sources = assign(t.settled(), func(name string) string { return r.holders[name] }, r.config.isPackaged)
	names := differ(before, r.sources)
	r.drop(names)
	for name, s := range r.sources {
		r.changed[name] = t.since(s.path, s.patch)
		if s.conflict == "" {
			r.holders[name] = s.path
		}
	}
	maps.DeleteFunc(r.changed, func(name string, _ time.Time) bool { _, ok := r.sources[name]; return !ok })
	maps.DeleteFunc(r.loaded, func(name string, _ [2]stamp) bool { _, ok := r.sources[name]; return !ok })
	maps.DeleteFunc(r.dropped, func(name string, _ int) bool { _, ok := r.sources[name]; return !ok })
	maps.DeleteFunc(r.holders, func(name string, _ string) bool { _, ok := r.sources[name]; return !ok })
	if !r.begun {
		r.begun = true
		names = slices.Collect(maps.Keys(r.sources))
	}
	r.mu.Unlock()
	r.retry(names...)
}

// again has Addons applied anew.
func (r *run) again(names ...string) {
	r.mu.Lock()
	r.drop(names)
	r.mu.Unlock()
	r.retry(names...)
}

// drop forgets how far files have been applied; mu is held.
func (r *run) drop(names []string) {
	for _, name := range names {
		delete(r.going, name)
		r.dropped[name]++
	}
}

// drops is how often it was forgotten how far a file has been applied.
func (r *run) drops(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped[name]
}

// retry has Addons looked at now, as if nothing had failed before.
func (r *run) retry(names ...string) {
	for _, name := range names {
		r.queue.Forget(name)
		r.queue.Add(name)
	}
}

// source is the file of an Addon.
func (r *run) source(name string) (s source, changed time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok = r.sources[name]
	return s, r.changed[name], ok
}

// current tells whether a source is still what it was.
func (r *run) current(s source) bool {
	now, _, ok := r.source(s.name)
	return ok && now == s
}

// read notes that a source was read, as it was then.
func (r *run) read(s source, kinds []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now, ok := r.sources[s.name]; ok && now == s {
		r.loaded[s.name] = s.stamps
		r.kinds[s.name] = union(r.kinds[s.name], kinds)
	}
}

// progress is how far a file has been applied.
type progress struct {
	sum, variant string
	// open are the objects that could not be applied, and the reasons.
	open map[key]problem
}

// reached is how far a file with this content has been applied in this process; nil if it was not.
func (r *run) reached(name, sum, variant string) map[key]problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.going[name]; p.sum == sum && p.variant == variant {
		return p.open
	}
	return nil
}

// reach notes how far a file has been applied, unless it has changed, or was to be applied anew, since drops were counted.
func (r *run) reach(s source, drops int, p progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now, ok := r.sources[s.name]; ok && now == s && r.dropped[s.name] == drops {
		r.going[s.name] = p
	}
}

// allRead tells whether every file was read as it is now. Before that nothing is deleted: it may have moved.
func (r *run) allRead() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.begun {
		return false
	}
	for name, s := range r.sources {
		if s.conflict == "" && !s.skip && r.loaded[name] != s.stamps {
			return false
		}
	}
	return true
}

// outcome is what is left to do for an Addon: nothing, try again with back-off, or look again after a while.
type outcome struct {
	failed bool
	after  time.Duration
}

// handle deals with one Addon, and whatever goes wrong then is that Addon's affair.
func (r *run) handle(ctx context.Context, name string) {
	var o outcome
	var err error
	func() {
		defer func() {
			if v := recover(); v != nil {
				r.log.Error("a manifest made the addon controller panic; this is a bug of knarr", "addon", name, "panic", v, "stack", string(debug.Stack()))
				err = fmt.Errorf("internal error: %v", v)
			}
		}()
		o, err = r.sync(ctx, name)
	}()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		o.failed = true
		if r.controller.say(name, &status{State: Failed, Message: err.Error()}) {
			r.log.Warn("addon failed; trying again", "addon", name, "error", err)
		}
	}
	switch {
	case o.failed:
		r.queue.AddRateLimited(name)
	case o.after > 0:
		r.queue.Forget(name)
		r.queue.AddAfter(name, o.after)
	default:
		r.queue.Forget(name)
	}
}
