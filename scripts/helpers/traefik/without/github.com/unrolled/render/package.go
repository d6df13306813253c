package render

import (
	"encoding/json"
	"net/http"
)

type (
	Options struct{ Directory string }
	Render  struct{}
)

func New(...Options) *Render { return &Render{} }

func (*Render) JSON(w http.ResponseWriter, status int, v interface{}) error {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(v)
}
