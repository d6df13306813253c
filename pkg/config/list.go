package config

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"
)

// List is an ordered list that cannot be changed: configuration holds it where
// a slice would let one component's append reach into another's arguments.
// The zero value is empty. Copying it is cheap and safe.
type List[T any] struct{ items []T }

// ListOf makes a list of its arguments; it keeps no reference to their array.
func ListOf[T any](items ...T) List[T] {
	return List[T]{items: slices.Clone(items)}
}

// Len is the number of items.
func (l List[T]) Len() int { return len(l.items) }

// At is the item at index i; it panics when i is not in [0, Len).
func (l List[T]) At(i int) T { return l.items[i] }

// All iterates over index and item, in order.
func (l List[T]) All() iter.Seq2[int, T] { return slices.All(l.items) }

// Slice is a copy of the items, the caller's to change; nil when empty.
func (l List[T]) Slice() []T { return slices.Clone(l.items) }

// String prints the items as fmt prints a slice.
func (l List[T]) String() string { return fmt.Sprint(l.items) }

// MarshalJSON writes an array, [] when empty.
func (l List[T]) MarshalJSON() ([]byte, error) {
	if l.items == nil {
		return []byte("[]"), nil
	}
	return json.Marshal(l.items)
}
