package helm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"

	"helm.sh/helm/v4/pkg/action"
	chartapi "helm.sh/helm/v4/pkg/chart"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/registry"
	"helm.sh/helm/v4/pkg/repo/v1"
)

const (
	// ociScheme is what references into OCI registries begin with.
	ociScheme = "oci://"
	// staticURL is how k3s's users name files below server/static of the data-dir. They are read in place.
	staticURL = "https://%{KUBERNETES_API}%/static/"

	// maxArchive and maxIndex bound what is downloaded into memory. The largest public index has some 20 MiB.
	maxArchive = 64 << 20
	maxIndex   = 128 << 20
)

// source is where a chart is and how to get at it.
type source struct {
	chart, version, repo, content string

	access
	registries registries
	// static is the directory behind staticURL.
	static string
}

// fetch reads the chart. Problems that only another HelmChart can mend are [permanent].
func (s source) fetch(ctx context.Context) (*chartv2.Chart, error) {
	archive, err := s.archive(ctx)
	if err != nil {
		return nil, err
	}
	chart, err := loader.LoadArchive(bytes.NewReader(archive))
	if err != nil {
		return nil, fmt.Errorf("read the archive of the chart: %w", err)
	}
	return chart, installable(chart)
}

// installable checks what helm's own command checks before an installation.
func installable(chart *chartv2.Chart) error {
	if t := chart.Metadata.Type; t != "" && t != "application" {
		return permanent{fmt.Errorf("the chart %s is of type %s and cannot be installed by itself", chart.Name(), t)}
	}
	var needs []chartapi.Dependency
	for _, d := range chart.Metadata.Dependencies {
		needs = append(needs, d)
	}
	if len(needs) == 0 {
		return nil
	}
	if err := action.CheckDependencies(chart, needs); err != nil {
		return permanent{fmt.Errorf("the chart %s is incomplete: %w; package it again after \"helm dependency update\"", chart.Name(), err)}
	}
	return nil
}

// archive is the packed chart.
func (s source) archive(ctx context.Context) ([]byte, error) {
	switch {
	case s.content != "":
		archive, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(s.content), ""))
		if err != nil {
			return nil, permanent{fmt.Errorf("decode spec.chartContent, which has to be base64: %w", err)}
		}
		return archive, nil
	case s.chart == "":
		return nil, permanent{errors.New("there is no chart to install: set spec.chart or spec.chartContent")}
	case strings.HasPrefix(s.chart, ociScheme):
		return s.pull(ctx, s.chart)
	case strings.HasPrefix(s.repo, ociScheme):
		return s.pull(ctx, strings.TrimSuffix(s.repo, "/")+"/"+s.chart)
	case s.repo != "":
		return s.fromRepo(ctx)
	case isURL(s.chart):
		return s.get(ctx, s.chart, true, maxArchive)
	}
	return nil, permanent{fmt.Errorf("there is no repository to find the chart %q in: set spec.repo, or spec.chart to a URL", s.chart)}
}

func isURL(text string) bool {
	return strings.HasPrefix(text, "https://") || strings.HasPrefix(text, "http://")
}

// fromRepo finds the chart in the repository's index.
func (s source) fromRepo(ctx context.Context) ([]byte, error) {
	at, err := resolve(s.repo, "index.yaml")
	if err != nil {
		return nil, err
	}
	text, err := s.get(ctx, at, true, maxIndex)
	if err != nil {
		return nil, fmt.Errorf("read the index of the repository: %w", err)
	}
	index, err := parseIndex(text)
	if err != nil {
		return nil, fmt.Errorf("read the index of the repository %s: %w", s.repo, err)
	}
	found, err := index.Get(s.chart, s.version)
	if err != nil {
		return nil, fmt.Errorf("find version %q of the chart %q in the repository %s: %w", s.version, s.chart, s.repo, err)
	}
	if len(found.URLs) == 0 {
		return nil, fmt.Errorf("the repository %s names no place of the chart %s %s", s.repo, found.Name, found.Version)
	}
	if at, err = resolve(s.repo, found.URLs[0]); err != nil {
		return nil, err
	}
	if strings.HasPrefix(at, ociScheme) {
		return s.pull(ctx, at)
	}
	archive, err := s.get(ctx, at, s.passAll || sameHost(s.repo, at), maxArchive)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(archive)
	if want := strings.TrimPrefix(found.Digest, "sha256:"); len(want) == hex.EncodedLen(len(sum)) && !strings.EqualFold(want, hex.EncodeToString(sum[:])) {
		return nil, fmt.Errorf("the archive %s has the checksum %x, but the repository's index says %s", at, sum, want)
	}
	return archive, nil
}

// resolve is the place of a file of a repository. That of a static one is no URL that could be parsed.
func resolve(base, file string) (string, error) {
	if strings.HasPrefix(base, staticURL) && !isURL(file) {
		return strings.TrimSuffix(base, "/") + "/" + file, nil
	}
	at, err := repo.ResolveReferenceURL(base, file)
	if err != nil {
		return "", permanent{fmt.Errorf("locate %s of the repository %s: %w", file, base, err)}
	}
	return at, nil
}

// parseIndex goes through a file, because that is all Helm reads indexes from.
func parseIndex(text []byte) (*repo.IndexFile, error) {
	f, err := os.CreateTemp("", "helm-index-")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // a leftover in the temporary directory
	_, err = f.Write(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("write a temporary file: %w", err)
	}
	return repo.LoadIndexFile(f.Name())
}

func sameHost(a, b string) bool {
	x, errX := url.Parse(a)
	y, errY := url.Parse(b)
	return errX == nil && errY == nil && x.Scheme == y.Scheme && x.Host == y.Host
}

// get downloads a file of at most limit bytes, with credentials or without.
func (s source) get(ctx context.Context, at string, credentials bool, limit int64) ([]byte, error) {
	if name, ok := strings.CutPrefix(at, staticURL); ok {
		return s.readStatic(name, limit)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, permanent{fmt.Errorf("read the URL of the chart: %w", err)}
	}
	if credentials && s.username != "" {
		req.SetBasicAuth(s.username, s.password)
	}
	client, err := s.client(ctx)
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("download %s: the server answers %q", at, resp.Status)
	}
	return readLimited(resp.Body, at, limit)
}

func readLimited(from io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(from, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: it has more than %d MiB", name, limit>>20)
	}
	return data, nil
}

// readStatic reads a file of the directory that k3s serves to its Jobs; no link leads out of it.
func (s source) readStatic(name string, limit int64) ([]byte, error) {
	root, err := os.OpenRoot(s.static)
	if err != nil {
		return nil, fmt.Errorf("open the directory of static files: %w", err)
	}
	defer root.Close() //nolint:errcheck // read only
	f, err := root.Open(path.Clean(name))
	if err != nil {
		return nil, fmt.Errorf("read a static file in %s: %w", s.static, err)
	}
	defer f.Close() //nolint:errcheck // read only
	return readLimited(f, f.Name(), limit)
}

// pull gets a chart from an OCI registry, or a mirror of it.
func (s source) pull(ctx context.Context, ref string) ([]byte, error) {
	at, err := url.Parse(ref)
	if err != nil {
		return nil, permanent{fmt.Errorf("read the reference %q: %w", ref, err)}
	}
	places, err := s.registries.places(at.Host, s.access)
	if err != nil {
		return nil, err
	}
	return fromEach(places, func(a access) ([]byte, error) { return s.pullBy(ctx, a, ref, *at) })
}

// pullBy is pull from one place.
func (s source) pullBy(ctx context.Context, a access, ref string, from url.URL) ([]byte, error) {
	client, done, err := a.registry(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	_, at, err := client.ValidateReference(ref, s.version, &from) // which it changes
	if err != nil {
		return nil, fmt.Errorf("find version %q of %s: %w", s.version, ref, err)
	}
	got, err := client.Pull(strings.TrimPrefix(at.String(), ociScheme), registry.PullOptWithChart(true))
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", at, err)
	}
	return got.Chart.Data, nil
}
