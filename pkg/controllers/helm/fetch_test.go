package helm

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/chart/common"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/repo/v1"
)

// pack makes the archive of a chart in dir.
func pack(t *testing.T, dir, version string, change ...func(*chartv2.Metadata)) string {
	t.Helper()
	c := &chartv2.Chart{
		Metadata:  &chartv2.Metadata{APIVersion: chartv2.APIVersionV2, Name: "web", Version: version},
		Templates: []*common.File{{Name: "templates/a.yaml", Data: []byte("a: 1")}},
	}
	for _, f := range change {
		f(c.Metadata)
	}
	path, err := chartutil.Save(c, dir)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// index writes the index of dir's charts, whose places begin with base.
func index(t *testing.T, dir, base string, change ...func(*repo.IndexFile)) {
	t.Helper()
	i, err := repo.IndexDirectory(dir, base)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(i)
	}
	if err := i.WriteFile(filepath.Join(dir, "index.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// locked serves dir to those who say user and pass, and counts the others.
func locked(t *testing.T, dir string, refused *int) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.StripPrefix("/charts", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "user" || password != "pass" {
			*refused++
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
	})))
	t.Cleanup(s.Close)
	return s
}

func TestRepository(t *testing.T) {
	dir := t.TempDir()
	for _, v := range []string{"1.0.0", "1.1.0", "2.0.0-rc.1"} {
		pack(t, dir, v)
	}
	index(t, dir, "")
	var refused int
	at := locked(t, dir, &refused).URL + "/charts"
	may := access{username: "user", password: "pass"}
	for version, want := range map[string]string{"": "1.1.0", "1.0.0": "1.0.0", "~1.0": "1.0.0", ">=2.0.0-0": "2.0.0-rc.1"} {
		for _, url := range []string{at, at + "/"} {
			chart, err := source{chart: "web", repo: url, version: version, access: may}.fetch(t.Context())
			if err != nil || chart.Metadata.Version != want {
				t.Errorf("version %q of %s: got %v, %v", version, url, chart, err)
			}
		}
	}
	if chart, err := (source{chart: at + "/web-1.0.0.tgz", access: may}).fetch(t.Context()); err != nil || chart.Metadata.Version != "1.0.0" {
		t.Errorf("by its URL: got %v, %v", chart, err)
	}
	for _, tt := range []struct {
		name string
		from source
		want string
	}{
		{"no such version", source{chart: "web", repo: at, version: "9", access: may}, `find version "9" of the chart "web"`},
		{"no such chart", source{chart: "db", repo: at, access: may}, `of the chart "db"`},
		{"no such repository", source{chart: "web", repo: at + "/none", access: may}, "404"},
		{"no password", source{chart: "web", repo: at}, "401"},
		{"wrong password", source{chart: "web", repo: at, access: access{username: "user", password: "x"}}, "401"},
		{"nobody there", source{chart: "web", repo: "http://127.0.0.1:1"}, "connection refused"},
	} {
		if _, err := tt.from.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got error %v, want %q", tt.name, err, tt.want)
		}
	}
}

// The password goes to the repository's own host only, unless the user says otherwise.
func TestPasswordStaysWithItsHost(t *testing.T) {
	archives, dir := t.TempDir(), t.TempDir()
	pack(t, archives, "1.0.0")
	var refused, none int
	elsewhere := locked(t, archives, &refused)
	index(t, archives, elsewhere.URL+"/charts")
	text, err := os.ReadFile(filepath.Join(archives, "index.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	from := source{chart: "web", repo: locked(t, dir, &none).URL + "/charts", access: access{username: "user", password: "pass"}}
	if _, err := from.fetch(t.Context()); err == nil || refused != 1 || none != 0 {
		t.Errorf("got error %v; the other host refused %d requests", err, refused)
	}
	from.passAll = true
	if _, err := from.fetch(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestChecksum(t *testing.T) {
	dir := t.TempDir()
	pack(t, dir, "1.0.0")
	index(t, dir, "", func(i *repo.IndexFile) { i.Entries["web"][0].Digest = strings.Repeat("0", 64) })
	s := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer s.Close()
	if _, err := (source{chart: "web", repo: s.URL}).fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "index says 0000") {
		t.Errorf("got error %v", err)
	}
}

func TestTrust(t *testing.T) {
	dir := t.TempDir()
	pack(t, dir, "1.0.0")
	s := httptest.NewUnstartedServer(http.FileServer(http.Dir(dir)))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that do not trust it
	s.StartTLS()
	defer s.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	for _, tt := range []struct {
		name string
		may  access
		want string
	}{
		{"unknown", access{}, "certificate"},
		{"CA", access{ca: ca}, ""},
		{"whatever", access{insecure: true}, ""},
		{"not a CA", access{ca: []byte("x")}, "there is no certificate in PEM"},
	} {
		_, err := source{chart: s.URL + "/web-1.0.0.tgz", access: tt.may}.fetch(t.Context())
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got error %v, want %q", tt.name, err, tt.want)
		}
	}
}

// Files of the server's own are read without a server, and none outside of their directory.
func TestStatic(t *testing.T) {
	dir := t.TempDir()
	static := filepath.Join(dir, "static")
	charts := filepath.Join(static, "charts")
	if err := os.MkdirAll(charts, 0o700); err != nil {
		t.Fatal(err)
	}
	pack(t, charts, "1.0.0")
	pack(t, dir, "6.6.6")
	index(t, charts, "")
	if err := os.Symlink(filepath.Join(dir, "web-6.6.6.tgz"), filepath.Join(static, "link.tgz")); err != nil {
		t.Fatal(err)
	}
	for _, from := range []source{
		{chart: staticURL + "charts/web-1.0.0.tgz"},
		{chart: "web", repo: staticURL + "charts"},
		{chart: "web", repo: staticURL + "charts/", version: "1.0.0"},
	} {
		from.static = static
		if chart, err := from.fetch(t.Context()); err != nil || chart.Metadata.Version != "1.0.0" {
			t.Errorf("%s in %s: got %v, %v", from.chart, from.repo, chart, err)
		}
	}
	for _, file := range []string{"../web-6.6.6.tgz", "charts/../../web-6.6.6.tgz", "link.tgz", "none.tgz", "charts", ""} {
		if _, err := (source{chart: staticURL + file, static: static}).fetch(t.Context()); err == nil {
			t.Errorf("%s was read", file)
		}
	}
}

func TestBadCharts(t *testing.T) {
	content := func(change func(*chartv2.Metadata)) string {
		archive, err := os.ReadFile(pack(t, t.TempDir(), "1.0.0", change))
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(archive)
	}
	for _, tt := range []struct {
		name string
		from source
		want string
	}{
		{"nothing", source{}, "set spec.chart or spec.chartContent"},
		{"no repository", source{chart: "web"}, "there is no repository to find the chart \"web\" in"},
		{"a path", source{chart: "/etc/passwd"}, "there is no repository"},
		{"not base64", source{content: "%"}, "decode spec.chartContent"},
		{"a library", source{content: content(func(m *chartv2.Metadata) { m.Type = "library" })}, "is of type library"},
		{"incomplete", source{content: content(func(m *chartv2.Metadata) { m.Dependencies = []*chartv2.Dependency{{Name: "db", Version: "1"}} })}, "missing in charts/ directory: db"},
		{"reference", source{chart: "oci://%zz"}, "read the reference"},
	} {
		_, err := tt.from.fetch(t.Context())
		var final permanent
		if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.As(err, &final) {
			t.Errorf("%s: got error %v, want %q", tt.name, err, tt.want)
		}
	}
}

// A request ends with the life that it belongs to, also where Helm passes a context of its own.
func TestRequestsEnd(t *testing.T) {
	reached, release := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "a")
		w.(http.Flusher).Flush()
		close(reached)
		<-release
	}))
	defer s.Close()
	defer close(release)
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	client, err := access{}.client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	go func() {
		<-reached
		cancel(stopped)
	}()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if resp, err := client.Do(req); err == nil {
		_, err = readLimited(resp.Body, "it", 1<<20)
		if resp.Body.Close(); err == nil {
			t.Error("the body was read to its end")
		}
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if _, err := client.Get(s.URL); !errors.Is(err, stopped) {
		t.Errorf("a request after the end: %v", err)
	}
}
