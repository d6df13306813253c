package arch

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	maxFileLines = 500
	// maxFuncLines leaves room for a table; a function of logic is shorter.
	maxFuncLines = 80
)

// root is the checkout's top directory.
func root(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

// files are the text files of the checkout as paths below root: what git knows
// and what it does not know yet but does not ignore either.
func files(t *testing.T) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list the checkout's files: %v", err)
	}
	var fs []string
	for f := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		if _, err := os.Stat(filepath.Join(root(t), f)); err == nil {
			fs = append(fs, f)
		}
	}
	return fs
}

// source is one parsed Go file.
type source struct {
	path  string // below root
	fset  *token.FileSet
	file  *ast.File
	lines int
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

func (s source) at(p token.Pos) string {
	return fmt.Sprintf("%s:%d", s.path, s.fset.Position(p).Line)
}

func sources(t *testing.T) []source {
	t.Helper()
	dir := root(t)
	var ss []source
	for _, f := range files(t) {
		if !strings.HasSuffix(f, ".go") || strings.Contains(f, "testdata/") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		s := source{path: f, fset: token.NewFileSet(), lines: bytes.Count(b, []byte("\n"))}
		if s.file, err = parser.ParseFile(s.fset, f, b, parser.ParseComments); err != nil {
			t.Fatal(err)
		}
		if ast.IsGenerated(s.file) {
			continue
		}
		ss = append(ss, s)
	}
	if len(ss) == 0 {
		t.Fatal("no Go files found")
	}
	return ss
}

func TestFilesAndFunctionsFitTheEye(t *testing.T) {
	for _, s := range sources(t) {
		if s.lines > maxFileLines {
			t.Errorf("%s has %d lines; %d are allowed", s.path, s.lines, maxFileLines)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || s.test() {
				continue
			}
			if n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1; n > maxFuncLines {
				t.Errorf("%s: %s has %d lines; %d are allowed", s.at(f.Pos()), f.Name.Name, n, maxFuncLines)
			}
		}
	}
}

// calls that are forbidden, where they are allowed all the same, and why not.
var forbiddenCalls = []struct {
	name    string
	allowed func(s source) bool
	instead string
}{
	{"os.Exit", func(s source) bool {
		return filepath.Base(s.path) == "main.go" && s.file.Name.Name == "main" || s.test()
	}, "return an error up to main"},
	{"log.Fatal", nobody, "return an error"},
	{"log.Fatalf", nobody, "return an error"},
	{"time.Sleep", fakeTime, "wait for the condition"},
	{"t.Skip", nobody, "make the test run here, or leave it out"},
	{"t.Skipf", nobody, "make the test run here, or leave it out"},
	{"t.SkipNow", nobody, "make the test run here, or leave it out"},
}

func nobody(source) bool { return false }

// fakeTime is true for tests under testing/synctest, where sleeping is how time is made to pass.
func fakeTime(s source) bool {
	return slices.ContainsFunc(s.file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing/synctest"` })
}

func TestForbiddenCalls(t *testing.T) {
	for _, s := range sources(t) {
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if !ok {
				return true
			}
			for _, f := range forbiddenCalls {
				if x.Name+"."+sel.Sel.Name == f.name && !f.allowed(s) {
					t.Errorf("%s: %s; %s", s.at(call.Pos()), f.name, f.instead)
				}
			}
			return true
		})
	}
}

func TestNoInitFunctions(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: func init; start things where they are owned", s.at(f.Pos()))
			}
		}
	}
}

func TestPackageVariablesDoNotChange(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			var changed []ast.Expr
			switch n := n.(type) {
			case *ast.AssignStmt:
				if n.Tok != token.DEFINE {
					changed = n.Lhs
				}
			case *ast.IncDecStmt:
				changed = []ast.Expr{n.X}
			}
			for _, e := range changed {
				if id, ok := e.(*ast.Ident); ok && packageVariable(s.file, id) {
					t.Errorf("%s: the package variable %s is changed", s.at(id.Pos()), id.Name)
				}
			}
			return true
		})
	}
}

// packageVariable tells whether id names a variable that its file declares at
// the top.
func packageVariable(f *ast.File, id *ast.Ident) bool {
	o := f.Scope.Lookup(id.Name)
	return o != nil && o.Kind == ast.Var && id.Obj == o
}

func TestPackagesSayWhatTheyAre(t *testing.T) {
	said, where := map[string]bool{}, map[string]bool{}
	for _, s := range sources(t) {
		dir := filepath.Dir(s.path)
		where[dir] = where[dir] || !s.test()
		said[dir] = said[dir] || !s.test() && s.file.Doc != nil
	}
	for dir, code := range where {
		if code && !said[dir] {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

// forbiddenWords must not stand in any file. They are put together here, so
// that this file does not hold them.
var forbiddenWords = []struct{ word, why string }{
	{"TO" + "DO", "finish it"},
	{"FIX" + "ME", "finish it"},
	{"HA" + "CK:", "do it properly"},
	{"/work" + "/", "a path of one machine"},
	{"/tmp" + "/w/", "a path of one machine"},
	{"proxy" + ".golang.org", "a registry's host"},
	{"registry" + ".npmjs.org", "a registry's host"},
	{"deb" + ".debian.org", "a registry's host"},
}

// checkedForWords are the kinds of files people write.
var checkedForWords = []string{".go", ".sh", ".yaml", ".yml", ".md", ".c", ".h", ".mod", ".toml", "", ".py"}

func TestForbiddenWords(t *testing.T) {
	dir := root(t)
	for _, f := range files(t) {
		if !slices.Contains(checkedForWords, filepath.Ext(f)) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range bytes.Split(b, []byte("\n")) {
			for _, w := range forbiddenWords {
				if bytes.Contains(line, []byte(w.word)) {
					t.Errorf("%s:%d: %q; %s", f, i+1, w.word, w.why)
				}
			}
		}
	}
}
