package manifest

import (
	"reflect"
	"strings"
	"testing"
)

const hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

var valid = Manifest{Arch: "arm64", Files: []File{
	{Path: "bin/nft", Link: "launch"},
	{Path: "bin/aux/mount", Link: "../launch"},
	{Path: "bin/runc", Mode: 0o755, Size: 3, SHA256: hash},
	{Path: "share/empty", Mode: 0o644, SHA256: hash},
}}

func TestEncodeAndParse(t *testing.T) {
	data, err := valid.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(data)
	if err != nil || !reflect.DeepEqual(got, valid) {
		t.Errorf("Parse(Encode()) = %+v, error %v, want %+v", got, err, valid)
	}
	again, err := got.Encode()
	if err != nil || string(again) != string(data) {
		t.Errorf("Encode() of the parsed manifest = %q, error %v, want %q", again, err, data)
	}
	if id := ID(data); len(id) != 32 || id == ID(append(data, ' ')) {
		t.Errorf("ID() = %q, want 32 digits that change with the content", id)
	}
}

func TestInvalid(t *testing.T) {
	ok := File{Path: "bin/runc", Mode: 0o755, Size: 3, SHA256: hash}
	with := func(change func(*File)) []File {
		f := ok
		change(&f)
		return []File{f}
	}
	for name, c := range map[string]struct {
		files []File
		want  string
	}{
		"no files":        {nil, "no files"},
		"listed twice":    {[]File{ok, ok}, "twice"},
		"absolute path":   {with(func(f *File) { f.Path = "/bin/runc" }), "inside"},
		"path upwards":    {with(func(f *File) { f.Path = "../runc" }), "inside"},
		"path not clean":  {with(func(f *File) { f.Path = "bin//runc" }), "inside"},
		"path is all":     {with(func(f *File) { f.Path = "." }), "inside"},
		"hidden file":     {with(func(f *File) { f.Path = ".stamp" }), "inside"},
		"no path":         {with(func(f *File) { f.Path = "" }), "inside"},
		"set-user-ID":     {with(func(f *File) { f.Mode = 0o4755 }), "mode"},
		"no mode":         {with(func(f *File) { f.Mode = 0 }), "mode"},
		"negative size":   {with(func(f *File) { f.Size = -1 }), "size"},
		"no hash":         {with(func(f *File) { f.SHA256 = "" }), "hash"},
		"short hash":      {with(func(f *File) { f.SHA256 = hash[2:] }), "hash"},
		"link and hash":   {with(func(f *File) { f.Link = "x" }), "link with"},
		"absolute link":   {[]File{{Path: "bin/x", Link: "/bin/sh"}}, "leaves"},
		"link upwards":    {[]File{{Path: "bin/x", Link: "../../sh"}}, "leaves"},
		"link to the top": {[]File{{Path: "bin/x", Link: ".."}}, "leaves"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Manifest{Arch: "amd64", Files: c.files}.Encode()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Encode() = %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestParseInvalid(t *testing.T) {
	for name, data := range map[string]string{
		"nothing":         "",
		"not JSON":        "runc",
		"no architecture": `{"files":[{"path":"a","link":"b"}]}`,
		"unknown field":   `{"arch":"arm","files":[{"path":"a","link":"b","owner":"root"}]}`,
		"bad path":        `{"arch":"arm","files":[{"path":"../a","link":"b"}]}`,
	} {
		if _, err := Parse([]byte(data)); err == nil {
			t.Errorf("%s: Parse() accepted %q", name, data)
		}
	}
}
