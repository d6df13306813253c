package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"strings"
)

// runWebhook serves over TLS:
//
//	/mutate    adds the label webhook.knarr.test/seen=true
//	/validate  refuses an object with the label webhook.knarr.test/deny
//	/convert   converts widgets.test.knarr.io between v1 ("size") and v2 ("width")
func runWebhook(ctx context.Context, args []string) error {
	var files tlsFiles
	if err := parse("webhook", args, files.flags); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/mutate", reviewHandler(mutate))
	mux.HandleFunc("/validate", reviewHandler(validate))
	mux.HandleFunc("/convert", convertHandler)
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return serve(ctx, &http.Server{Addr: ":8443", Handler: mux}, files)
}

// review is the part of admission.k8s.io/v1 AdmissionReview used here.
type review struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Request    *request  `json:"request,omitempty"`
	Response   *response `json:"response,omitempty"`
}

type request struct {
	UID    string `json:"uid"`
	Object struct {
		Metadata struct {
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
	} `json:"object"`
}

type response struct {
	UID       string            `json:"uid"`
	Allowed   bool              `json:"allowed"`
	Status    map[string]string `json:"status,omitempty"`
	PatchType string            `json:"patchType,omitempty"`
	Patch     string            `json:"patch,omitempty"`
}

func reviewHandler(decide func(*request) *response) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in review
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Request == nil {
			http.Error(w, fmt.Sprintf("not an AdmissionReview: %v", err), http.StatusBadRequest)
			return
		}
		out := review{APIVersion: in.APIVersion, Kind: in.Kind, Response: decide(in.Request)}
		out.Response.UID = in.Request.UID
		respond(w, out)
	}
}

func mutate(r *request) *response {
	patch := `[{"op":"add","path":"/metadata/labels/webhook.knarr.test~1seen","value":"true"}]`
	if r.Object.Metadata.Labels == nil {
		patch = `[{"op":"add","path":"/metadata/labels","value":{"webhook.knarr.test/seen":"true"}}]`
	}
	return &response{Allowed: true, PatchType: "JSONPatch", Patch: base64.StdEncoding.EncodeToString([]byte(patch))}
}

func validate(r *request) *response {
	if _, deny := r.Object.Metadata.Labels["webhook.knarr.test/deny"]; deny {
		return &response{Status: map[string]string{"message": "the label webhook.knarr.test/deny is not allowed here"}}
	}
	return &response{Allowed: true}
}

// conversion is what is used of apiextensions.k8s.io/v1 ConversionReview as it
// comes in; converted is the answer.
type conversion struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Request    *struct {
		UID               string           `json:"uid"`
		DesiredAPIVersion string           `json:"desiredAPIVersion"`
		Objects           []map[string]any `json:"objects"`
	} `json:"request"`
}

type converted struct {
	UID              string            `json:"uid"`
	ConvertedObjects []map[string]any  `json:"convertedObjects"`
	Result           map[string]string `json:"result"`
}

func convertHandler(w http.ResponseWriter, r *http.Request) {
	var c conversion
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil || c.Request == nil {
		http.Error(w, fmt.Sprintf("not a ConversionReview: %v", err), http.StatusBadRequest)
		return
	}
	from, to := "size", "width"
	if strings.HasSuffix(c.Request.DesiredAPIVersion, "/v1") {
		from, to = to, from
	}
	for _, o := range c.Request.Objects {
		o["apiVersion"] = c.Request.DesiredAPIVersion
		if s, ok := o["spec"].(map[string]any); ok && s[from] != nil {
			s[to] = s[from]
			delete(s, from)
		}
	}
	respond(w, map[string]any{"apiVersion": c.APIVersion, "kind": c.Kind,
		"response": converted{c.Request.UID, c.Request.Objects, map[string]string{"status": "Success"}}})
}

func respond(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// runAPIServer serves the API group demo.knarr.test/v1 with one resource,
// greetings, which tells who the kube-apiserver says is asking. With -client-ca
// only the kube-apiserver gets in.
func runAPIServer(ctx context.Context, args []string) error {
	var files tlsFiles
	if err := parse("apiserver", args, func(fs *flag.FlagSet) { files.flags(fs) }); err != nil {
		return err
	}
	const gv = "demo.knarr.test/v1"
	mux := http.NewServeMux()
	mux.HandleFunc("/apis/"+gv, func(w http.ResponseWriter, _ *http.Request) {
		respond(w, map[string]any{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": []any{
			map[string]any{"name": "greetings", "singularName": "greeting", "namespaced": false, "kind": "Greeting", "verbs": []string{"get", "list"}},
		}})
	})
	mux.HandleFunc("/apis/"+gv+"/greetings/{name}", func(w http.ResponseWriter, r *http.Request) {
		respond(w, map[string]any{"kind": "Greeting", "apiVersion": gv, "metadata": map[string]any{"name": r.PathValue("name")},
			"user": r.Header.Get("X-Remote-User"), "groups": r.Header.Values("X-Remote-Group")})
	})
	mux.HandleFunc("/openapi/", http.NotFound)
	return serve(ctx, &http.Server{Addr: ":8443", Handler: mux}, files)
}
