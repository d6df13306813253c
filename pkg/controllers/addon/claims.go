package addon

import (
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// claims knows which Addons have an object in their file. Of several, the first by name owns it; it is not deleted for
// as long as one wants it.
type claims struct {
	mu     sync.Mutex
	wanted map[key][]string // names, sorted
	by     map[string][]key
}

func newClaims() *claims { return &claims{wanted: make(map[key][]string), by: make(map[string][]key)} }

// set makes keys those that an Addon wants, and returns the other Addons for which that has changed something.
func (c *claims) set(name string, keys []key) (concerned []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := make(map[key]bool, len(keys))
	for _, k := range keys {
		now[k] = true
	}
	for _, k := range c.by[name] {
		if !now[k] {
			concerned = append(concerned, c.change(k, func(names []string) []string {
				return slices.DeleteFunc(names, func(n string) bool { return n == name })
			})...)
		}
	}
	for k := range now {
		if !slices.Contains(c.wanted[k], name) {
			concerned = append(concerned, c.change(k, func(names []string) []string {
				names = append(names, name)
				slices.Sort(names)
				return names
			})...)
		}
	}
	c.by[name] = keys
	if len(keys) == 0 {
		delete(c.by, name)
	}
	slices.Sort(concerned)
	return slices.DeleteFunc(slices.Compact(concerned), func(n string) bool { return n == name })
}

// change changes who wants k, and returns the old and the new owner if they are not the same.
func (c *claims) change(k key, how func([]string) []string) (owners []string) {
	before := c.wanted[k]
	old := ""
	if len(before) > 0 {
		old = before[0]
	}
	after := how(slices.Clone(before))
	if len(after) == 0 {
		delete(c.wanted, k)
	} else {
		c.wanted[k] = after
		if after[0] != old {
			owners = append(owners, after[0])
		}
	}
	if len(owners) > 0 && old != "" {
		owners = append(owners, old)
	}
	return owners
}

// tenant is another Addon that has an object in a namespace, "" for none.
func (c *claims) tenant(namespace, except string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, names := range c.wanted {
		if k.namespace == namespace && names[0] != except && !slices.Contains(global[:], schema.GroupKind{Group: k.group, Kind: k.kind}.String()) {
			return names[0]
		}
	}
	return ""
}

// owner is the Addon that an object belongs to, "" for none.
func (c *claims) owner(k key) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if names := c.wanted[k]; len(names) > 0 {
		return names[0]
	}
	return ""
}
