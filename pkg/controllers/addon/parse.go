package addon

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	yamlnode "go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

// object is one object of a file, and where it is there.
type object struct {
	*unstructured.Unstructured
	file           string
	document, line int
}

// key tells objects apart, whatever version they are written in. A missing namespace counts as "default" also where
// there is none, so that a key needs nobody to say which kinds have one.
type key struct{ group, kind, namespace, name string }

func keyOf(k schema.GroupKind, namespace, name string) key {
	if namespace == "" {
		namespace = "default"
	}
	return key{k.Group, k.Kind, namespace, name}
}

// anywhere is the key without the namespace.
func (k key) anywhere() key { return key{k.group, k.kind, "*", k.name} }

func (o object) key() key {
	return keyOf(o.GroupVersionKind().GroupKind(), o.GetNamespace(), o.GetName())
}

// title is how messages call the object.
func (o object) title() string { return title(o.GetKind(), o.GetNamespace(), o.GetName()) }

func title(kind, namespace, name string) string {
	if namespace != "" {
		name = namespace + "/" + name
	}
	return strings.TrimSpace(kind + " " + name)
}

// problem is something wrong with the object.
func (o object) problem(err error) problem {
	return problem{File: o.file, Document: o.document, Line: o.line, Object: o.title(), Message: err.Error()}
}

// final is problem for what trying again does not mend.
func (o object) final(err error) problem {
	p := o.problem(err)
	p.final = true
	return p
}

// document is a piece of a file that holds one value.
type document struct {
	number int
	line   int // where text begins in the file, from 1
	text   []byte
}

// parse reads a manifest: YAML or JSON, several documents, lists of objects. It goes on after a problem, to report all.
func parse(file string, data []byte) ([]object, []problem) {
	p := &parser{file: file, seen: make(map[key]object)}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if path.Ext(file) == ".json" {
		p.splitJSON(data)
	} else {
		p.splitYAML(data)
	}
	return p.objects, p.problems
}

type parser struct {
	file     string
	objects  []object
	problems []problem
	seen     map[key]object
}

func (p *parser) complain(d document, line int, text string, args ...any) {
	p.problems = append(p.problems, problem{File: p.file, Document: d.number, Line: line, Message: fmt.Sprintf(text, args...)})
}

// splitYAML cuts at lines that begin with "---": in YAML such a line can be nothing else than the end of a document.
func (p *parser) splitYAML(data []byte) {
	d := document{number: 1, line: 1}
	line := 0
	flush := func() {
		if first := contentLine(d.text); first >= 0 {
			p.readYAML(d, d.line+first)
			d.number++
		}
	}
	for text := range bytes.Lines(data) {
		line++
		if rest, ok := bytes.CutPrefix(text, []byte("---")); ok && (len(rest) == 0 || bytes.ContainsRune([]byte(" \t\r\n"), rune(rest[0]))) {
			flush()
			// A value may follow on the same line.
			d = document{number: d.number, line: line, text: append([]byte("   "), rest...)}
			continue
		}
		d.text = append(d.text, text...)
	}
	flush()
}

// contentLine is the first line, from 0, that is not empty or a comment; -1 when there is none.
func contentLine(text []byte) int {
	n := 0
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("...")) {
			return n
		}
		n++
	}
	return -1
}

// readYAML converts as kubectl does, so that a file means the same to both.
func (p *parser) readYAML(d document, line int) {
	text, err := yaml.YAMLToJSON(d.text)
	if err != nil {
		at, message := locate(err, d.line)
		p.complain(d, max(at, line), "not YAML: %s", message)
		return
	}
	p.readJSON(d, line, text)
}

// locate finds the line in a YAML error, moves it to where the document begins, and leaves the rest of the text.
func locate(err error, start int) (line int, message string) {
	message = strings.TrimPrefix(strings.TrimPrefix(err.Error(), "error converting YAML to JSON: "), "yaml: ")
	match := regexp.MustCompile(`^line (\d+): `).FindStringSubmatch(message)
	if match == nil {
		return 0, message
	}
	n, err := strconv.Atoi(match[1])
	if err != nil {
		return 0, message
	}
	return start + n - 1, message[len(match[0]):]
}

// splitJSON reads one value after the other.
func (p *parser) splitJSON(data []byte) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	for d := (document{number: 1}); ; d.number++ {
		var raw json.RawMessage
		err := decoder.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return
		}
		end := int(decoder.InputOffset())
		d.line = 1 + bytes.Count(data[:max(0, end-len(raw))], []byte("\n"))
		if err != nil {
			p.complain(d, d.line, "not JSON: %v", err)
			return
		}
		d.text = raw
		p.readJSON(d, d.line, raw)
	}
}

// readJSON takes in a document that begins at line.
func (p *parser) readJSON(d document, line int, text []byte) {
	var value any
	if err := utiljson.Unmarshal(text, &value); err != nil {
		p.complain(d, line, "not an object: %v", err)
		return
	}
	switch v := value.(type) {
	case nil:
	case map[string]any:
		p.read(d, []int{line}, v)
	default:
		p.complain(d, line, "not an object: want a mapping with apiVersion, kind and metadata")
	}
}

// read takes in an object, or all objects of a list. lines are where it begins and, for a list, where its items do.
func (p *parser) read(d document, lines []int, fields map[string]any) {
	o := object{&unstructured.Unstructured{Object: fields}, p.file, d.number, lines[0]}
	gv, err := schema.ParseGroupVersion(o.GetAPIVersion())
	switch {
	case err != nil || gv.Version == "":
		p.complain(d, lines[0], "apiVersion %q: want VERSION or GROUP/VERSION", o.GetAPIVersion())
		return
	case o.GetKind() == "":
		p.complain(d, lines[0], "kind is missing")
		return
	}
	if items, ok := fields["items"].([]any); ok && strings.HasSuffix(o.GetKind(), "List") {
		p.readList(d, o, items)
		return
	}
	if err := o.tidy(); err != nil {
		p.problems = append(p.problems, o.problem(err))
		return
	}
	if twin, ok := p.seen[o.key()]; ok {
		if !reflect.DeepEqual(twin.Object, o.Object) {
			p.problems = append(p.problems, o.problem(fmt.Errorf("is in document %d, line %d as well, with another content", twin.document, twin.line)))
		}
		return
	}
	p.seen[o.key()] = o
	p.objects = append(p.objects, o)
}

func (p *parser) readList(d document, list object, items []any) {
	lines := itemLines(d)
	for i, item := range items {
		line := list.line
		if i < len(lines) {
			line = lines[i]
		}
		fields, ok := item.(map[string]any)
		if !ok {
			p.complain(d, line, "item %d of the list is not an object", i+1)
			continue
		}
		// A list of one kind need not repeat it.
		if kind := strings.TrimSuffix(list.GetKind(), "List"); kind != "" && fields["kind"] == nil {
			fields["kind"], fields["apiVersion"] = kind, list.GetAPIVersion()
		}
		p.read(d, []int{line}, fields)
	}
}

// itemLines are the lines at which the items of a list begin.
func itemLines(d document) []int {
	var root yamlnode.Node
	if yamlnode.Unmarshal(d.text, &root) != nil || len(root.Content) == 0 {
		return nil // of use for messages only
	}
	fields := root.Content[0].Content
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i].Value == "items" {
			var lines []int
			for _, n := range fields[i+1].Content {
				lines = append(lines, d.line+n.Line-1)
			}
			return lines
		}
	}
	return nil
}

// tidy takes out what belongs to the API, as in objects that were exported from a cluster, and writes the write-only
// stringData of Secrets as data: then a key that is dropped is dropped in the cluster, too.
func (o object) tidy() error {
	meta, ok := o.Object["metadata"].(map[string]any)
	if !ok {
		return errors.New("metadata, with a name, is missing")
	}
	for _, f := range []string{"name", "namespace"} {
		if v, ok := meta[f].(string); meta[f] != nil && !ok {
			return fmt.Errorf("metadata.%s: want a text, not %v; put quotes around numbers and words like yes, no, y and n", f, meta[f])
		} else if f == "name" && v == "" {
			return errors.New("metadata.name is missing")
		}
	}
	if slices.Contains(global[:], o.GroupVersionKind().GroupKind().String()) {
		delete(meta, "namespace")
	}
	for _, f := range []string{"managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"} {
		delete(meta, f)
	}
	for _, f := range []string{"labels", "annotations"} {
		if meta[f] == nil {
			delete(meta, f)
		}
		if _, _, err := unstructured.NestedStringMap(meta, f); err != nil {
			return fmt.Errorf("metadata.%s: want a mapping of texts; put quotes around numbers and true or false", f)
		}
	}
	if o.GroupVersionKind() != (schema.GroupVersionKind{Version: "v1", Kind: "Secret"}) {
		return nil
	}
	plain, found, err := unstructured.NestedStringMap(o.Object, "stringData")
	if err != nil {
		return errors.New("stringData: want a mapping of texts; put quotes around numbers and true or false")
	}
	if !found {
		return nil
	}
	delete(o.Object, "stringData")
	if o.Object["data"] == nil {
		delete(o.Object, "data")
	}
	for k, v := range plain {
		if err := unstructured.SetNestedField(o.Object, base64.StdEncoding.EncodeToString([]byte(v)), "data", k); err != nil {
			return fmt.Errorf("data: %w", err)
		}
	}
	return nil
}
