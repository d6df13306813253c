package backup

import (
	"bytes"
	"context"
	"encoding/pem"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeS3 is as much of the S3 protocol as backups need.
type fakeS3 struct {
	mu      sync.Mutex
	objects map[string][]byte
	fail    bool
}

func (f *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if bucket != "bucket" || f.fail || !strings.Contains(r.Header.Get("Authorization"), "Credential=access/") {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	switch {
	case r.Method == http.MethodPut:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		f.objects[key] = body
		w.Header().Set("ETag", `"x"`)
	case r.Method == http.MethodDelete:
		delete(f.objects, key)
		w.WriteHeader(http.StatusNoContent)
	case key == "":
		f.list(w, r.URL.Query().Get("prefix"))
	case f.objects[key] == nil:
		w.WriteHeader(http.StatusNotFound)
	default:
		w.Header().Set("ETag", `"x"`)
		http.ServeContent(w, r, "", time.Unix(1e9, 0), bytes.NewReader(f.objects[key]))
	}
}

func (f *fakeS3) list(w http.ResponseWriter, prefix string) {
	type object struct {
		Key          string
		LastModified time.Time
		ETag         string
		Size         int
	}
	var out struct {
		XMLName     xml.Name `xml:"ListBucketResult"`
		IsTruncated bool
		Contents    []object
	}
	for k, v := range f.objects {
		if strings.HasPrefix(k, prefix) {
			out.Contents = append(out.Contents, object{k, time.Unix(1e9, 0), `"x"`, len(v)})
		}
	}
	data, err := xml.Marshal(out)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if _, err := w.Write(data); err != nil {
		return // the client went away
	}
}

func newRemote(t *testing.T, f *fakeS3) *Remote {
	t.Helper()
	server := httptest.NewTLSServer(f)
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := NewRemote(S3{
		Endpoint: strings.TrimPrefix(server.URL, "https://"), Bucket: "bucket", Folder: "cluster/one", Region: "eu-1",
		AccessKey: "access", SecretKey: "secret", CAFile: ca,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestS3KeepsListsFetchesAndPrunes(t *testing.T) {
	f := &fakeS3{objects: map[string][]byte{"cluster/one/notes": []byte("x"), "cluster/one-more/" + series.Name(time.Unix(3e9, 0)): []byte("y")}}
	r := newRemote(t, f)
	dir := t.TempDir()
	var names []string
	for i := range 4 {
		name := series.Name(time.Unix(int64(1e9+i*1000), 0))
		names = append(names, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := r.Upload(t.Context(), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	slices.Reverse(names)
	if got, err := r.List(t.Context()); err != nil || !slices.Equal(got, names) {
		t.Errorf("list: %v, %v; want %v", got, err, names)
	}
	to := filepath.Join(t.TempDir(), "fetched")
	if err := r.Download(t.Context(), names[2], to); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to); err != nil || string(got) != names[2] {
		t.Errorf("fetched %q, %v", got, err)
	}
	if _, err := r.Prune(t.Context(), series, 0); err == nil {
		t.Error("all backups could be removed")
	}
	if removed, err := r.Prune(t.Context(), series, 3); err != nil || !slices.Equal(removed, names[3:]) {
		t.Errorf("removed %v, %v", removed, err)
	}
	if got, err := r.List(t.Context()); err != nil || !slices.Equal(got, names[:3]) {
		t.Errorf("list: %v, %v", got, err)
	}
	if err := r.Download(t.Context(), names[3], to+"2"); err == nil {
		t.Error("fetched a backup that was removed")
	}
	if _, err := os.Stat(to + "2"); err == nil {
		t.Error("a failed download left a file")
	}
}

func TestDelete(t *testing.T) {
	f := &fakeS3{objects: map[string][]byte{}}
	r := newRemote(t, f)
	dir := t.TempDir()
	here, both := series.Name(time.Unix(1e9, 0)), series.Name(time.Unix(2e9, 0))
	for _, name := range []string{here, both} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.objects["cluster/one/"+both] = []byte("x")
	for _, c := range []struct {
		name string
		want int
	}{{here, 1}, {both, 2}, {both, 0}, {"../notes", 0}} {
		where, err := Delete(t.Context(), dir, Place{Fixed: &r.s}, c.name)
		if len(where) != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("delete %s: %v, %v; want %d places", c.name, where, err, c.want)
		}
	}
	if left, err := List(dir); err != nil || len(left) != 0 || len(f.objects) != 0 {
		t.Errorf("left: %v, %v, %v", left, f.objects, err)
	}
}

// TestPlaceIsAskedEachTime has a place that is not there yet, then is, with its CA certificates in memory.
func TestPlaceIsAskedEachTime(t *testing.T) {
	f := &fakeS3{objects: map[string][]byte{}}
	s := newRemote(t, f).s
	var err error
	if s.CA, err = os.ReadFile(s.CAFile); err != nil {
		t.Fatal(err)
	}
	s.CAFile, s.Keep = "", 1
	missing := errors.New("there is no Secret")
	p := Place{Read: func(context.Context) (S3, error) { return s, missing }}
	file := func(second int64) string {
		name := filepath.Join(t.TempDir(), series.Name(time.Unix(second, 0)))
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	if err := p.Send(t.Context(), file(1e9), series, -1); !errors.Is(err, missing) {
		t.Errorf("sent without a place: %v", err)
	}
	missing = nil
	for i := range int64(3) {
		if err := p.Send(t.Context(), file(1e9+i), series, -1); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.objects) != 1 {
		t.Errorf("left there: %v, want one", f.objects)
	}
	got, done, err := p.Fetch(t.Context(), series.Name(time.Unix(1e9+2, 0)), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(got); err != nil || string(data) != "x" {
		t.Errorf("fetched %q, %v", data, err)
	}
	if err := done(); err != nil {
		t.Error(err)
	}
	here := file(2e9)
	missing = errors.New("the cluster is down")
	if got, _, err := p.Fetch(t.Context(), here, t.TempDir()); err != nil || got != here {
		t.Errorf("a file that is here: %s, %v", got, err)
	}
	if r, err := (Place{}).Remote(t.Context()); r != nil || err != nil {
		t.Errorf("nowhere is %v, %v", r, err)
	}
}

func TestS3FailuresAreErrors(t *testing.T) {
	r := newRemote(t, &fakeS3{fail: true})
	file := filepath.Join(t.TempDir(), series.Name(time.Now()))
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Upload(t.Context(), file); err == nil {
		t.Error("upload to a service that refuses succeeded")
	}
	if _, err := r.List(t.Context()); err == nil {
		t.Error("list from a service that refuses succeeded")
	}
	for name, s := range map[string]S3{
		"bucket": {}, "go together": {Bucket: "b", AccessKey: "a"}, "CA": {Bucket: "b", CAFile: "/missing"},
	} {
		if _, err := NewRemote(s); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: %v, want an error with %q", s, err, name)
		}
	}
}
