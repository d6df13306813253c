package config

import "strings"

// kind is how the occurrences of a flag become its value.
type kind int

const (
	kindBool  kind = iota // a switch
	kindOne               // one value, the last occurrence
	kindList              // a list, a comma separates items as a new occurrence does
	kindWords             // a list, commas belong to the item
)

// binding ties a row of the table to its field, with the parser between them.
type binding interface {
	kind() kind
	want() string
	// apply parses the settings (at least one, all from the same source) into
	// the field, or reports each that is bad and leaves the field alone.
	apply(l *loader, f *Flag, s *Server, settings []setting)
	// adopt takes the field's value over from another configuration.
	adopt(to, from *Server)
}

// setting is one value as it was given, and where.
type setting struct{ where, text string }

// parser turns the text of one value into a T. The zero value of nothing in it
// is useful: both fields are needed.
type parser[T any] struct {
	// allowed completes "want ..." in messages and documentation.
	allowed string
	// parse's error says what is wrong, without repeating the text.
	parse func(in *Input, text string) (T, error)
	// secret keeps the text out of messages and makes the empty text an error:
	// an empty token is a mistake, not a wish for the default.
	secret bool
}

type oneBinding[T any] struct {
	p     parser[T]
	field func(*Server) *T
	as    kind
}

// one binds a flag with a single value.
func one[T any](p parser[T], field func(*Server) *T) binding {
	return oneBinding[T]{p, field, kindOne}
}

// toggle binds a switch.
func toggle(field func(*Server) *bool) binding {
	return oneBinding[bool]{boolean(false), field, kindBool}
}

// untoggle binds a switch that turns off what its field, a positive boolean,
// says is on. Such a row needs the default "false".
func untoggle(field func(*Server) *bool) binding {
	return oneBinding[bool]{boolean(true), field, kindBool}
}

func (b oneBinding[T]) kind() kind   { return b.as }
func (b oneBinding[T]) want() string { return b.p.allowed }

func (b oneBinding[T]) apply(l *loader, f *Flag, s *Server, settings []setting) {
	last := settings[len(settings)-1]
	if last.text == "" && b.as == kindOne && !b.p.secret {
		if f.Default == "" {
			l.origin[f.Name] = setting{}
			return
		}
		last = setting{where: last.where, text: f.Default}
	}
	if v, ok := parseOne(l, f, b.p, last); ok {
		*b.field(s) = v
	}
}

func (b oneBinding[T]) adopt(to, from *Server) { *b.field(to) = *b.field(from) }

type listBinding[T any] struct {
	p     parser[T]
	field func(*Server) *List[T]
	as    kind
}

// many binds a list whose items are separated by commas or occurrences.
func many[T any](p parser[T], field func(*Server) *List[T]) binding {
	return listBinding[T]{p, field, kindList}
}

// words binds a list of texts that may hold commas.
func words(p parser[string], field func(*Server) *List[string]) binding {
	return listBinding[string]{p, field, kindWords}
}

func (b listBinding[T]) kind() kind   { return b.as }
func (b listBinding[T]) want() string { return b.p.allowed }

func (b listBinding[T]) apply(l *loader, f *Flag, s *Server, settings []setting) {
	var items []T
	good := true
	for _, given := range settings {
		texts := []string{given.text}
		if b.as == kindList {
			texts = strings.Split(given.text, ",")
		}
		for _, text := range texts {
			text = strings.TrimSpace(text)
			if text == "" {
				continue
			}
			v, ok := parseOne(l, f, b.p, setting{given.where, text})
			good = good && ok
			items = append(items, v)
		}
	}
	if good {
		*b.field(s) = List[T]{items: items}
	}
}

func (b listBinding[T]) adopt(to, from *Server) { *b.field(to) = *b.field(from) }

// parseOne parses one text and reports it when it is bad.
func parseOne[T any](l *loader, f *Flag, p parser[T], given setting) (T, bool) {
	v, err := p.parse(&l.in, given.text)
	if err == nil {
		return v, true
	}
	l.bad[f.Name] = true
	shown := given.text
	if p.secret {
		shown = ""
	}
	l.report(given.where, shown, err.Error()+"; want "+p.allowed)
	return v, false
}
