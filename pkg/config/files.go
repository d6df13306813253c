package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// readFiles reads the configuration file and its drop-ins and merges them, in
// that order, into the settings of each flag. line is what the command line
// says of --config.
//
// The file may be missing when nobody named it; the drop-ins are read either
// way. Only names that end in .yaml count, in the order of the alphabet.
func (l *loader) readFiles(line []setting) map[string][]setting {
	merged := make(map[string][]setting)
	main, ok := l.configFile(line)
	if !ok {
		return merged
	}
	data, err := l.in.readFile(main.text)
	switch {
	case err == nil:
		l.mergeFile(merged, main.text, data)
	case errors.Is(err, fs.ErrNotExist) && main.where == "":
	case main.where == "":
		l.report(main.text, "", fmt.Sprintf("cannot read the configuration file: %v", err))
	default:
		l.report(main.where, main.text, fmt.Sprintf("cannot read the configuration file: %v", err))
	}
	dir := main.text + ".d"
	entries, err := l.in.readDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.report(dir, "", fmt.Sprintf("cannot read the directory of drop-in files: %v", err))
	}
	for _, e := range entries { // fs.ReadDir sorts by name
		if e.IsDir() || path.Ext(e.Name()) != ".yaml" {
			continue
		}
		name := path.Join(dir, e.Name())
		data, err := l.in.readFile(name)
		if err != nil {
			l.report(name, "", fmt.Sprintf("cannot read the configuration file: %v", err))
			continue
		}
		l.mergeFile(merged, name, data)
	}
	return merged
}

// configFile is the absolute path of the file; where is "" for the default.
func (l *loader) configFile(line []setting) (setting, bool) {
	f := l.flags["config"]
	if l.bad[f.Name] {
		return setting{}, false
	}
	given := l.choose(f, map[string][]setting{f.Name: line}, nil)
	last := given[len(given)-1]
	if last.text == "" || !l.given(f.Name) {
		return setting{"", f.Default}, true
	}
	return setting{last.where, l.in.absolute(last.text)}, true
}

// mergeFile adds one file to what the files before it gave.
func (l *loader) mergeFile(merged map[string][]setting, name string, data []byte) {
	l.read = append(l.read, name)
	root, ok := l.parseFile(name, data)
	if !ok {
		return
	}
	seen := make(map[string]string) // flag → the key and line it stands at
	for i := 0; i+1 < len(root.Content); i += 2 {
		l.mergeKey(merged, seen, name, root.Content[i], root.Content[i+1])
	}
}

// parseFile gives the mapping that the file has to be, or false when it is
// empty or bad.
func (l *loader) parseFile(name string, data []byte) (*yaml.Node, bool) {
	var doc, next yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, false
	} else if err != nil {
		l.badYAML(name, err)
		return nil, false
	}
	if err := dec.Decode(&next); !errors.Is(err, io.EOF) {
		if err != nil {
			l.badYAML(name, err)
		} else {
			l.report(at(name, next.Line), "", "a second YAML document; want one")
		}
		return nil, false
	}
	root := resolve(doc.Content[0])
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, false
	}
	if root.Kind != yaml.MappingNode {
		l.report(at(name, root.Line), "", "not a mapping; want lines of `key: value`")
		return nil, false
	}
	return root, true
}

// mergeKey adds one key of one file.
func (l *loader) mergeKey(merged map[string][]setting, seen map[string]string, file string, key, value *yaml.Node) {
	where := fmt.Sprintf("%s: %s", at(file, key.Line), key.Value)
	name, plus := strings.CutSuffix(key.Value, "+")
	f, ok := l.flags[name]
	switch {
	case key.Kind != yaml.ScalarNode:
		l.report(at(file, key.Line), "", "the key is not a text")
		return
	case !ok && l.flags[strings.TrimLeft(name, "-")] != nil:
		l.report(where, "", "a key has no dashes in front, write "+strings.TrimLeft(key.Value, "-"))
		return
	case !ok:
		l.unknown(where, name, "key")
		return
	case f.Name == "config":
		l.report(where, "", "a configuration file cannot name another; use --config or "+f.Env)
		return
	}
	spelling := f.Name
	if plus {
		spelling += "+"
	}
	if first, ok := seen[spelling]; ok {
		l.report(where, "", "given before, "+first)
		return
	}
	seen[spelling] = fmt.Sprintf("as %s in line %d", key.Value, key.Line)
	settings, ok := l.values(f, where, file, key.Value, resolve(value))
	if !ok {
		l.bad[f.Name] = true
		return
	}
	if plus {
		settings = append(merged[f.Name], settings...)
	}
	merged[f.Name] = settings
}

// values turns the value of a key into settings: one for a scalar, one for each
// item of a list. Scalars keep the text as written, so that 0644 stays octal.
func (l *loader) values(f *Flag, where, file, key string, value *yaml.Node) ([]setting, bool) {
	switch {
	case value.Kind == yaml.ScalarNode && value.Tag == "!!null":
		if f.Repeatable() {
			return []setting{{where, ""}}, true
		}
		l.report(where, "", "has no value; remove the key or give it "+f.Wants())
		return nil, false
	case value.Kind == yaml.ScalarNode:
		return []setting{{where, value.Value}}, true
	case value.Kind == yaml.MappingNode:
		l.report(where, "", "is a mapping; want "+f.shape())
		return nil, false
	case !f.Repeatable():
		l.report(where, "", "is a list; want "+f.shape())
		return nil, false
	}
	settings := []setting{{where, ""}} // an empty list is given, too
	good := true
	for _, item := range value.Content {
		item = resolve(item)
		place := fmt.Sprintf("%s: %s", at(file, item.Line), key)
		if item.Kind != yaml.ScalarNode {
			l.report(place, "", "an item is not a single value; want "+f.Wants())
			good = false
			continue
		}
		text := item.Value
		if item.Tag == "!!null" {
			text = ""
		}
		settings = append(settings, setting{place, text})
	}
	return settings, good
}

// shape says what a file may have as the flag's value.
func (f *Flag) shape() string {
	if f.Repeatable() {
		return "a list, each item " + f.Wants()
	}
	return "one value, " + f.Wants()
}

// badYAML reports a syntax error with its line as part of the place.
func (l *loader) badYAML(name string, err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if m := regexp.MustCompile(`^line (\d+): `).FindStringSubmatch(text); m != nil {
		line, _ := strconv.Atoi(m[1]) // digits only: it cannot fail
		name, text = at(name, line), text[len(m[0]):]
	}
	l.report(name, "", "not valid YAML: "+text)
}

func at(file string, line int) string { return fmt.Sprintf("%s:%d", file, line) }

// resolve follows an alias to what its anchor stands at.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}
