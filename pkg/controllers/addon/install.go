package addon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/knarr-io/knarr/pkg/retry"
)

const (
	// soon is when to look again at what waits for other files.
	soon = 100 * time.Millisecond
	// showProgress is how often the progress of a large file is written.
	showProgress = 2 * time.Second
	// establish is how long the kinds that a file defines itself may take to be known.
	establish = 5 * time.Second
)

// sync makes the cluster as the file of an Addon says.
func (r *run) sync(ctx context.Context, name string) (outcome, error) {
	s, changed, ok := r.source(name)
	if !ok {
		return r.uninstall(ctx, name)
	}
	content, problems, err := r.load(s)
	if errors.Is(err, errChanging) {
		return outcome{after: settleWritten}, nil
	}
	if err != nil {
		problems = []problem{{File: s.path, Message: err.Error()}}
	}
	record, err := r.cluster.get(ctx, name)
	if err != nil {
		return outcome{}, err
	}
	j := &job{run: r, source: s, changed: changed, content: content, drops: r.drops(name)}
	if record == nil {
		r.reach(s, j.drops, progress{}) // somebody may have deleted it to have all applied anew
	} else {
		j.uid, j.spec, j.status, j.stored = record.UID, record.Spec, record.Status, true
	}
	switch {
	case s.conflict != "":
		return outcome{}, j.finish(ctx, status{State: Conflict, Problems: []problem{{File: s.path, Message: s.conflict}}})
	case s.skip:
		st := j.status
		st.State, st.Problems = Skipped, nil
		st.Message = s.path + skipSuffix + " is there: nothing is applied or removed"
		return outcome{}, j.finish(ctx, st)
	case len(problems) > 0:
		st := j.status
		st.State, st.Problems = Failed, problems
		return outcome{failed: err != nil}, j.finish(ctx, st)
	}
	return j.apply(ctx)
}

// content is what a file and its patch say.
type content struct {
	objects []object
	sum     string
	// problems are those of the patch.
	problems []problem
}

// errChanging is returned for a file that is being written.
var errChanging = errors.New("the file is changing")

// load reads a source. What it claims holds until it is read again without a problem.
func (r *run) load(s source) (c content, problems []problem, err error) {
	if s.conflict != "" || s.skip {
		r.claim(s.name, nil)
		return content{}, nil, nil
	}
	sum := sha256.New()
	var parsed [2][]object
	for i, file := range []string{s.path, s.patch} {
		if file == "" {
			continue
		}
		name := filepath.Join(r.config.Dir, filepath.FromSlash(file))
		data, err := os.ReadFile(name)
		now, statErr := stampOf(name)
		if statErr == nil && now != s.stamps[i] {
			return content{}, nil, errChanging
		}
		if err != nil {
			r.read(s, nil)
			return content{}, nil, err
		}
		if len(data) == 0 {
			problems = append(problems, problem{File: file, Message: "the file is empty, as after a write to a full disk, so nothing is changed; remove it to remove what it made"})
		}
		objects, wrong := parse(file, data)
		parsed[i], problems = objects, append(problems, wrong...)
		fmt.Fprintf(sum, "%d ", len(data))
		sum.Write(data)
	}
	if len(problems) > 0 {
		r.read(s, nil)
		return content{}, problems, nil
	}
	keys := make([]key, 0, len(parsed[0]))
	for _, o := range parsed[0] {
		keys = append(keys, o.key())
	}
	r.claim(s.name, keys)
	r.read(s, kindsOf(parsed[0]))
	objects, wrong := overlay(parsed[0], parsed[1])
	return content{objects, hex.EncodeToString(sum.Sum(nil)), wrong}, nil, nil
}

// claim says what an Addon wants, and has others look again whom that concerns.
func (r *run) claim(name string, keys []key) { r.again(r.claims.set(name, keys)...) }

// job is one go at one Addon.
type job struct {
	*run
	source  source
	changed time.Time
	content content
	drops   int // before anything was applied

	stored   bool // whether there is an Addon
	uid      types.UID
	spec     spec
	status   status
	applied  int
	total    int
	problems []problem
	shown    time.Time // when progress was last written
}

// maxProblems is how many are written into an Addon.
const maxProblems = 20

// apply applies what the file says and deletes what it does not say any more.
func (j *job) apply(ctx context.Context) (outcome, error) {
	objects, variant := j.demanded()
	intended := spec{
		Source: filepath.Join(j.config.Dir, filepath.FromSlash(j.source.path)), Server: j.config.Server,
		Checksum: j.content.sum + variant, Kinds: union(j.spec.Kinds, kindsOf(j.content.objects)),
	}
	clean := j.status.Checksum == intended.Checksum
	if !clean {
		if err := j.begin(ctx); err != nil {
			return outcome{}, err
		}
	}
	if err := j.intend(ctx, intended); err != nil {
		return outcome{}, err
	}
	j.total, j.shown = len(objects), time.Now()
	if err := j.applyAll(ctx, objects, variant); err != nil || !j.current(j.source) {
		return outcome{}, err // if the file has changed, it is queued again
	}
	if len(j.problems) > 0 {
		return j.failed(ctx)
	}
	j.waits.set(j.source.name, nil)
	if !clean {
		if again, err := j.prune(ctx, objects); err != nil || again > 0 {
			return outcome{after: again}, err
		}
	}
	intended.Kinds = kindsOf(j.content.objects)
	if err := j.intend(ctx, intended); err != nil {
		return outcome{}, err
	}
	return outcome{}, j.finish(ctx, status{State: Ready, Objects: j.count(), Checksum: intended.Checksum})
}

// begin takes back that an earlier content is what the cluster has, before that stops being true.
func (j *job) begin(ctx context.Context) error {
	if j.status.Checksum == "" {
		return nil
	}
	st := j.status
	st.State, st.Checksum, st.Message, st.Problems = Applying, "", "", nil
	return j.report(ctx, st)
}

// demanded leaves out the objects that Switch has switched off, and says which variant of the file this is.
func (j *job) demanded() (objects []object, variant string) {
	on, known := j.controller.switched(j.source.name)
	for _, o := range j.content.objects {
		if o.GetAnnotations()[OnDemand] != "true" {
			objects = append(objects, o)
			continue
		}
		switch {
		case !known: // they stay as they are
			variant = "/as-is"
			if rest, same := strings.CutPrefix(j.spec.Checksum, j.content.sum); same && rest != "" {
				variant = rest
			}
		case on:
			variant = "/on"
			objects = append(objects, o)
		default:
			variant = "/off"
		}
	}
	return objects, variant
}

// intend writes what is about to be done, before it is.
func (j *job) intend(ctx context.Context, s spec) error {
	if j.stored && j.spec.equal(s) {
		return nil
	}
	uid, err := j.cluster.saveSpec(ctx, j.source.name, s)
	if err != nil {
		return err
	}
	j.stored, j.uid, j.spec = true, uid, s
	return nil
}

// applyAll applies objects, rank by rank. What was applied before in this process, from the same content, is left out.
func (j *job) applyAll(ctx context.Context, objects []object, variant string) error {
	before := j.reached(j.source.name, j.content.sum, variant)
	open := make(map[key]problem)
	sorted := arrange(objects)
	for begin := 0; begin < len(sorted); {
		end := begin + 1
		for end < len(sorted) && sorted[end].rank() == sorted[begin].rank() {
			end++
		}
		if err := j.applyRank(ctx, sorted[begin:end], before, open); err != nil || !j.current(j.source) {
			return err
		}
		begin = end
	}
	j.reach(j.source, j.drops, progress{j.content.sum, variant, open})
	j.problems = slices.Clone(j.content.problems)
	for _, o := range sorted {
		if p, ok := open[o.key()]; ok {
			j.problems = append(j.problems, p)
		}
	}
	return nil
}

// applyRank applies objects in any order, and adds what could not be to open.
func (j *job) applyRank(ctx context.Context, objects []object, before, open map[key]problem) error {
	var mu sync.Mutex // guards open, and what progress uses
	return each(ctx, len(objects), func(ctx context.Context, i int) error {
		if !j.current(j.source) {
			return nil
		}
		o := objects[i]
		p, failed := before[o.key()]
		if before == nil || failed {
			p, failed = j.applyOne(ctx, o)
		}
		mu.Lock()
		defer mu.Unlock()
		if failed {
			open[o.key()] = p
		} else {
			j.applied++
		}
		return j.progress(ctx)
	})
}

// applyOne applies one object, or says what is wrong.
func (j *job) applyOne(ctx context.Context, o object) (p problem, failed bool) {
	if owner := j.claims.owner(o.key()); owner != j.source.name {
		if o.GetKind() == "Namespace" || owner == "" {
			return problem{}, false // several files may need one namespace
		}
		return o.final(fmt.Errorf("is in the file of addon %s as well, and counts there: take it out of one", owner)), true
	}
	r, err := j.resource(ctx, o.GroupVersionKind())
	if err == nil {
		err = j.send(ctx, r, o)
	}
	if err == nil {
		return problem{}, false
	}
	p = o.problem(err)
	if errors.Is(err, errNoKind) {
		p.missing = o.GroupVersionKind().GroupKind()
	}
	return p, true
}

// resource waits a little for kinds that the file itself defines.
func (j *job) resource(ctx context.Context, kind schema.GroupVersionKind) (r resource, err error) {
	r, err = j.cluster.resource(ctx, kind)
	if !errors.Is(err, errNoKind) || !j.defines(kind.GroupKind()) {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, establish)
	defer cancel()
	_ = retry.Until(ctx, "the kind", retry.Backoff{First: 20 * time.Millisecond, Max: soon}, func(ctx context.Context) (bool, error) {
		r, err = j.cluster.resource(ctx, kind)
		return !errors.Is(err, errNoKind), err
	})
	return r, err
}

// defines tells whether the file has the definition of a kind.
func (j *job) defines(kind schema.GroupKind) bool {
	return slices.ContainsFunc(j.content.objects, func(o object) bool {
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		name, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
		return o.GetKind() == "CustomResourceDefinition" && group == kind.Group && name == kind.Kind
	})
}

// send applies an object with the label that makes it this Addon's.
func (j *job) send(ctx context.Context, r resource, o object) error {
	o.Unstructured = o.DeepCopy()
	labels := o.GetLabels()
	if labels == nil {
		labels = make(map[string]string)
	}
	labels[Label] = j.source.name
	o.SetLabels(labels)
	namespace := o.GetNamespace()
	switch {
	case !r.namespaced:
		o.SetNamespace("")
		namespace = ""
	case namespace == "":
		namespace = "default"
		o.SetNamespace(namespace)
	}
	data, err := o.MarshalJSON()
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return j.cluster.apply(ctx, r, namespace, o.GetName(), data)
}

func (j *job) count() string { return fmt.Sprintf("%d/%d", j.applied, j.total) }

// progress shows how far a large file has come.
func (j *job) progress(ctx context.Context) error {
	if time.Since(j.shown) < showProgress {
		return nil
	}
	j.shown = time.Now()
	st := j.status
	st.State, st.Objects, st.Problems, st.Message = Applying, j.count(), nil, ""
	return j.finish(ctx, st)
}

// failed says what is wrong. Nothing is pruned then: the old may be what still works.
func (j *job) failed(ctx context.Context) (outcome, error) {
	st := status{State: Waiting, Objects: j.count(), Problems: j.problems}
	var missing []schema.GroupKind
	final := true
	for _, p := range j.problems {
		final = final && p.final
		if p.missing == (schema.GroupKind{}) {
			st.State = Failed
		} else {
			missing = append(missing, p.missing)
		}
	}
	j.waits.set(j.source.name, missing)
	return outcome{failed: !final}, j.finish(ctx, st)
}

// finish says how the Addon is. An Addon that there is not yet is created.
func (j *job) finish(ctx context.Context, st status) error {
	if !j.stored {
		err := j.intend(ctx, spec{Source: filepath.Join(j.config.Dir, filepath.FromSlash(j.source.path)), Server: j.config.Server})
		if err != nil {
			return err
		}
	}
	if len(st.Problems) > 0 {
		st.Message = st.Problems[0].Error()
		if more := len(st.Problems) - 1; more > 0 {
			st.Message += fmt.Sprintf(" (and %d more)", more)
		}
		st.Problems = st.Problems[:min(len(st.Problems), maxProblems)]
	}
	return j.report(ctx, st)
}
