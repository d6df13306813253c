package addon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/knarr-io/knarr/pkg/retry"
)

// patience is how long a removal waits for the objects of one rank to be gone before it goes on to the next: custom
// resources need the controller that is removed after them, namespaces should be empty.
const patience = 30 * time.Second

// protected are namespaces that Kubernetes itself lives in.
var protected = [...]string{"default", "kube-system", "kube-public", "kube-node-lease"}

// doomed is an object to delete.
type doomed struct {
	resource resource
	item     item
}

func (d doomed) title() string { return title(d.resource.kind.Kind, d.item.namespace, d.item.name) }

func (d doomed) key() key { return keyOf(d.resource.kind, d.item.namespace, d.item.name) }

// made finds the objects that were made for an Addon, of the kinds given, that no other wants; in the order of removal.
func (r *run) made(ctx context.Context, name string, kinds []string) ([]doomed, error) {
	var all []doomed
	done := make(map[schema.GroupKind]bool) // several versions of a kind are one
	for _, text := range kinds {
		kind := parseKind(text)
		if kind.Kind == "" || done[kind.GroupKind()] {
			continue
		}
		done[kind.GroupKind()] = true
		res, err := r.cluster.served(ctx, kind)
		if err == nil {
			var items []item
			items, err = r.cluster.labelled(ctx, res, name)
			for _, i := range items {
				all = append(all, doomed{res, i})
			}
		}
		if err != nil && !errors.Is(err, errNoKind) { // without the kind there are no objects
			return nil, err
		}
	}
	all = slices.DeleteFunc(all, func(d doomed) bool {
		if d.resource.kind.String() == "Namespace" && slices.Contains(protected[:], d.item.name) {
			return true
		}
		owner := r.claims.owner(d.key())
		if owner != "" && owner != name {
			r.retry(owner) // it puts its own label on it
			return true
		}
		return false
	})
	slices.SortStableFunc(all, func(a, b doomed) int { return rank(b.resource.kind) - rank(a.resource.kind) })
	return all, nil
}

// prune deletes what the file does not say any more, once that is certain.
func (j *job) prune(ctx context.Context, objects []object) (again time.Duration, err error) {
	if _, known := j.controller.switched(j.source.name); !known {
		objects = j.content.objects // what is on demand stays as it is
	}
	wanted := make(map[key]bool, len(objects))
	for _, o := range objects {
		wanted[o.key()] = true
		wanted[o.key().anywhere()] = true
	}
	stale, err := j.made(ctx, j.source.name, j.spec.Kinds)
	if err != nil {
		return 0, err
	}
	stale = slices.DeleteFunc(stale, func(d doomed) bool {
		if j.lodges(d) != "" {
			return true // it goes when this Addon does
		}
		if !d.resource.namespaced {
			return wanted[d.key().anywhere()] // the file may say a namespace that counts for nothing
		}
		return wanted[d.key()]
	})
	if len(stale) == 0 {
		return 0, nil
	}
	if wait := time.Until(j.changed.Add(settlePrune)); wait > 0 {
		return wait, nil
	}
	if !j.allRead() {
		return soon, nil
	}
	err = each(ctx, len(stale), func(ctx context.Context, i int) error {
		if !j.current(j.source) {
			return nil // it is queued again, and may say otherwise
		}
		if err := j.cluster.remove(ctx, stale[i].resource, stale[i].item); err != nil {
			return fmt.Errorf("delete %s, which is no longer in %s: %w", stale[i].title(), j.source.path, err)
		}
		return nil
	})
	if err != nil || !j.current(j.source) {
		return soon, err
	}
	j.log.Info("deleted what is no longer in a manifest", "addon", j.source.name, "objects", len(stale))
	j.cluster.event(j.source.name, j.uid, corev1.EventTypeNormal, "Pruned", "deleted what is no longer in the file: "+shorten(stale))
	return 0, nil
}

// shorten names objects, but not very many.
func shorten(objects []doomed) string {
	const most = 10
	var names []string
	for _, d := range objects[:min(most, len(objects))] {
		names = append(names, d.title())
	}
	text := strings.Join(names, ", ")
	if more := len(objects) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// uninstall deletes all that was made from a file that is gone, and then the Addon.
func (r *run) uninstall(ctx context.Context, name string) (outcome, error) {
	if r.config.brings(name) {
		return outcome{}, nil // the file is put back, as soon as that can be
	}
	r.claim(name, nil)
	r.waits.set(name, nil)
	record, err := r.cluster.get(ctx, name)
	if err != nil {
		return outcome{}, err
	}
	if record == nil {
		record = r.remembered(name)
	}
	if record == nil || record.Spec.Server != r.config.Server {
		r.controller.say(name, nil)
		return outcome{}, nil
	}
	if !r.allRead() {
		return outcome{after: soon}, nil
	}
	j := &job{run: r, source: source{name: name}, stored: true, uid: record.UID, spec: record.Spec, status: record.Status}
	left, err := j.removeRanks(ctx)
	if err != nil {
		return outcome{}, errors.Join(err, j.removing(ctx, nil, err))
	}
	if _, _, back := r.source(name); back {
		return outcome{}, nil // and is queued
	}
	if len(left) > 0 {
		return outcome{failed: true}, j.removing(ctx, left, nil)
	}
	if err := r.cluster.forget(ctx, name); err != nil {
		return outcome{}, err
	}
	r.mu.Lock()
	delete(r.kinds, name)
	r.mu.Unlock()
	r.controller.say(name, nil)
	r.log.Info("removed what a manifest had made", "addon", name)
	return outcome{}, nil
}

// remembered stands in for an Addon that somebody has deleted while its file was there; nil if nothing was made.
func (r *run) remembered(name string) *addon {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.kinds[name]) == 0 {
		return nil
	}
	return &addon{Spec: spec{Server: r.config.Server, Kinds: r.kinds[name]}}
}

// removeRanks deletes rank by rank, and returns what is still there in the end.
func (j *job) removeRanks(ctx context.Context) ([]doomed, error) {
	all, err := j.made(ctx, j.source.name, j.spec.Kinds)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	if err := j.removing(ctx, all, nil); err != nil {
		return nil, err
	}
	var left []doomed
	for len(all) > 0 {
		if tenant := j.lodges(all[0]); tenant != "" {
			left, all = append(left, all[0]), all[1:]
			continue
		}
		level := rank(all[0].resource.kind)
		end := slices.IndexFunc(all, func(d doomed) bool { return rank(d.resource.kind) != level || j.lodges(d) != "" })
		if end < 0 {
			end = len(all)
		}
		still, err := j.removeRank(ctx, all[:end])
		if err != nil {
			return nil, err
		}
		left = append(left, still...)
		all = all[end:]
	}
	return left, nil
}

// removeRank deletes objects of one rank and waits, within reason, until they are gone.
func (j *job) removeRank(ctx context.Context, objects []doomed) (left []doomed, err error) {
	kinds := make([]string, 0, len(objects))
	for _, d := range objects {
		kinds = append(kinds, kindName(d.resource.GroupVersion().WithKind(d.resource.kind.Kind)))
	}
	kinds = union(kinds, nil)
	if err := j.deleteAll(ctx, objects); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var failure error
	_ = retry.Until(ctx, "the objects to be gone", retry.Backoff{First: 50 * time.Millisecond, Max: 2 * time.Second}, func(ctx context.Context) (bool, error) {
		found, err := j.made(ctx, j.source.name, kinds)
		if err != nil {
			failure = err
			return ctx.Err() == nil, err
		}
		left, failure = found, nil
		_, _, back := j.run.source(j.source.name)
		return len(left) == 0 || back, nil
	})
	return left, failure
}

// lodges names another Addon that has objects in the namespace d, if that is what d is: they would go with it.
func (j *job) lodges(d doomed) string {
	if d.resource.kind.String() != "Namespace" {
		return ""
	}
	return j.claims.tenant(d.item.name, j.source.name)
}

// deleteAll deletes objects in any order, unless the file comes back.
func (j *job) deleteAll(ctx context.Context, objects []doomed) error {
	var mu sync.Mutex // guards shown and done
	shown, done := time.Now(), 0
	return each(ctx, len(objects), func(ctx context.Context, i int) error {
		if _, _, back := j.run.source(j.source.name); back {
			return nil
		}
		d := objects[i]
		if err := j.cluster.remove(ctx, d.resource, d.item); err != nil {
			return fmt.Errorf("delete %s: %w", d.title(), err)
		}
		mu.Lock()
		defer mu.Unlock()
		if done++; time.Since(shown) < showProgress {
			return nil
		}
		shown = time.Now()
		return j.removing(ctx, objects[done:], nil)
	})
}

// removing says how far a removal has come.
func (j *job) removing(ctx context.Context, left []doomed, err error) error {
	st := j.status
	st.State, st.Problems = Removing, nil
	st.Message = "the file is gone"
	if len(left) > 0 {
		st.Message += fmt.Sprintf("; %d objects are left: %s", len(left), shorten(left))
	}
	for _, d := range left {
		if tenant := j.lodges(d); tenant != "" {
			st.Message += fmt.Sprintf("; namespace %s stays for as long as addon %s has objects in it", d.item.name, tenant)
			break
		}
	}
	if err != nil {
		st.Message += "; " + err.Error()
	}
	return j.report(ctx, st)
}
