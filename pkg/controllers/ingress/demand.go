package ingress

import (
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/knarr-io/knarr/pkg/follow"
)

// demand is what there is that asks for Traefik.
type demand struct {
	// changed is rung when wanted may say something else than before.
	changed follow.Bell

	mu sync.Mutex
	// seen are the objects of each kind: by namespace and name, the class that they name or, of a class, who it belongs to.
	seen map[string]map[string]string
	// unknown are the kinds of which not all is seen yet.
	unknown map[string]bool
}

func newDemand() *demand {
	d := &demand{changed: follow.NewBell(), seen: make(map[string]map[string]string), unknown: map[string]bool{definitions.name: true}}
	for _, k := range kinds {
		if !k.custom {
			d.unknown[k.name] = true
		}
	}
	return d
}

// wanted names an object that asks for Traefik, "" for none. It is known to be none only when all was looked at.
func (d *demand) wanted() (by string, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range kinds {
		classes := d.seen[k.classes]
		for _, key := range slices.Sorted(maps.Keys(d.seen[k.name])) {
			if k.wants(d.seen[k.name][key], classes) {
				return k.name + " " + key, true
			}
		}
	}
	return "", len(d.unknown) == 0
}

func (d *demand) change(fn func()) {
	d.mu.Lock()
	fn()
	d.mu.Unlock()
	d.changed.Ring()
}

// expect notes that a kind is about to be looked at.
func (d *demand) expect(kind string) {
	d.change(func() { d.unknown[kind] = true })
}

// forget notes that a kind, and all of its objects, are gone.
func (d *demand) forget(kind string) {
	d.change(func() {
		delete(d.unknown, kind)
		delete(d.seen, kind)
	})
}

// store is what a reflector fills with the objects of one kind.
func (d *demand) store(kind string) *store {
	return &store{demand: d, kind: kind, class: classOf(kind)}
}

type store struct {
	demand *demand
	kind   string
	class  func(obj any) string
}

// Add implements cache.ReflectorStore.
func (s *store) Add(obj any) error {
	key, err := keyOf(obj)
	if err != nil {
		return err
	}
	class := s.class(obj)
	s.demand.change(func() {
		if s.demand.seen[s.kind] == nil {
			s.demand.seen[s.kind] = make(map[string]string)
		}
		s.demand.seen[s.kind][key] = class
	})
	return nil
}

// Update implements cache.ReflectorStore.
func (s *store) Update(obj any) error { return s.Add(obj) }

// Delete implements cache.ReflectorStore.
func (s *store) Delete(obj any) error {
	key, err := keyOf(obj)
	if err != nil {
		return err
	}
	s.demand.change(func() { delete(s.demand.seen[s.kind], key) })
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *store) Replace(list []any, _ string) error {
	all := make(map[string]string, len(list))
	for _, obj := range list {
		key, err := keyOf(obj)
		if err != nil {
			return err
		}
		all[key] = s.class(obj)
	}
	s.demand.change(func() {
		s.demand.seen[s.kind] = all
		delete(s.demand.unknown, s.kind)
	})
	return nil
}

// Resync implements cache.ReflectorStore.
func (*store) Resync() error { return nil }

// keyOf is an object's namespace and name.
func keyOf(obj any) (string, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return "", err
	}
	if m.GetNamespace() == "" {
		return m.GetName(), nil
	}
	return m.GetNamespace() + "/" + m.GetName(), nil
}
