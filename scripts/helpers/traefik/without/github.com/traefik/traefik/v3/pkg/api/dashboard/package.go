package dashboard

import (
	"io/fs"
	"net/http"

	"github.com/gorilla/mux"
	"github.com/knarr-io/knarr/scripts/helpers/traefik/leftout"
)

type Handler struct{ BasePath string }

func (Handler) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "dashboard: "+leftout.ErrLeftOut.Error(), http.StatusNotFound)
}

func Append(router *mux.Router, basePath string, _ fs.FS) error {
	router.PathPrefix(basePath + "/dashboard/").Handler(Handler{})
	return nil
}
