package server

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
)

// staticPath is where files are served, as k3s does: https://SERVER:6443/static/NAME.
const staticPath = "/static/"

// front is what the port serves beside the API.
func (p Plan) front(g gate, log *slog.Logger) func(api http.Handler) http.Handler {
	return func(api http.Handler) http.Handler { return g.joins.Front(static(p.Dir.Static(), log, api)) }
}

// static puts the files of dir before api, for anybody who asks, read only. There is no list of them, and no link leads out
// of dir.
func static(dir string, log *slog.Logger, api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ok := strings.CutPrefix(r.URL.Path, staticPath)
		if !ok {
			api.ServeHTTP(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "files are only read here", http.StatusMethodNotAllowed)
			return
		}
		if err := serveFile(w, r, dir, name); err != nil {
			log.Warn("cannot serve a static file", "path", r.URL.Path, "error", err)
			http.Error(w, "the file cannot be read", http.StatusInternalServerError)
		}
	})
}

// serveFile answers with a file of dir. What is not one, or leads out, is not found.
func serveFile(w http.ResponseWriter, r *http.Request, dir, name string) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		http.NotFound(w, r)
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // read only
	f, err := root.Open(name)
	if err != nil {
		http.NotFound(w, r)
		return nil //nolint:nilerr // said to who asked
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		http.NotFound(w, r)
		return nil
	}
	http.ServeContent(w, r, info.Name(), info.ModTime(), f)
	return nil
}
