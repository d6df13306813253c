package apiserver

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/emicklei/go-restful/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kubernetes/pkg/generated/openapi"
)

// documentServer serves the documents of two groups, and counts how often definitions were made for them.
func documentServer(t *testing.T) (d *documents, api *genericapiserver.GenericAPIServer, made *int) {
	t.Helper()
	made = new(int)
	definitions := func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
		*made++
		return openapi.GetOpenAPIDefinitions(ref)
	}
	namer := openapinamer.NewDefinitionNamer(scheme.Scheme)
	config := &genericapiserver.Config{
		OpenAPIConfig:   genericapiserver.DefaultOpenAPIConfig(definitions, namer),
		OpenAPIV3Config: genericapiserver.DefaultOpenAPIV3Config(definitions, namer),
	}
	container := restful.NewContainer()
	for _, root := range []string{"/api/v1", "/apis/apps/v1"} {
		ws := new(restful.WebService).Path(root)
		ws.Route(ws.GET("/things").To(func(*restful.Request, *restful.Response) {}).
			Operation("listThings").Produces(runtime.ContentTypeJSON).Returns(200, "OK", corev1.Pod{}).Writes(corev1.Pod{}))
		container.Add(ws)
	}
	api = &genericapiserver.GenericAPIServer{Handler: &genericapiserver.APIServerHandler{
		GoRestfulContainer: container, NonGoRestfulMux: mux.NewPathRecorderMux("test"),
	}}
	d, err := installDocuments(api, config, []string{"--a=b"})
	if err != nil {
		t.Fatal(err)
	}
	d.forgetDefinitions()
	*made = 0
	return d, api, made
}

func get(t *testing.T, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("Accept", "application/json")
	h.ServeHTTP(w, r)
	return w
}

// The list costs nothing, each document is made once, and a hash of the list leads to the document.
func TestDocumentsAreMadeWhenAskedFor(t *testing.T) {
	_, api, made := documentServer(t)
	h := api.Handler.NonGoRestfulMux
	var list handler3.OpenAPIV3Discovery
	if err := json.Unmarshal(get(t, h, openAPIv3).Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Paths) != 2 || *made != 0 {
		t.Fatalf("%d documents are listed, definitions were made %d times; want 2 and 0", len(list.Paths), *made)
	}
	url := list.Paths["apis/apps/v1"].ServerRelativeURL
	for range 2 {
		moved := get(t, h, url)
		if moved.Code != http.StatusMovedPermanently {
			t.Fatalf("GET %s: %d, want to be sent on to the document's own hash", url, moved.Code)
		}
		w := get(t, h, moved.Header().Get("Location"))
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "/apis/apps/v1/things") {
			t.Fatalf("GET %s: %d %.200s", moved.Header().Get("Location"), w.Code, w.Body)
		}
		if !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("the document may not be cached: %v", w.Header())
		}
	}
	if *made != 1 {
		t.Errorf("definitions were made %d times for one document, want once", *made)
	}
	if w := get(t, h, openAPIv3+"/apis/nothing/v1"); w.Code != http.StatusNotFound {
		t.Errorf("a document that does not exist: %d, want 404", w.Code)
	}
}

func TestDocumentOfVersion2(t *testing.T) {
	_, api, made := documentServer(t)
	for range 2 {
		w := get(t, api.Handler.NonGoRestfulMux, "/openapi/v2")
		var document struct {
			Paths       map[string]any `json:"paths"`
			Definitions map[string]any `json:"definitions"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil {
			t.Fatalf("%d: %v", w.Code, err)
		}
		if len(document.Paths) != 2 || document.Definitions["io.k8s.api.core.v1.PodSpec"] == nil {
			t.Errorf("the document has %d paths, want 2; PodSpec: %v", len(document.Paths), document.Definitions["io.k8s.api.core.v1.PodSpec"])
		}
	}
	if *made != 1 {
		t.Errorf("definitions were made %d times, want once", *made)
	}
}

// What could change the documents changes the hash under which clients keep them.
func TestDocumentHashNamesTheArguments(t *testing.T) {
	d, api, _ := documentServer(t)
	first := slices.Clone(d.list)
	api.Handler.NonGoRestfulMux = mux.NewPathRecorderMux("again")
	same, err := installDocuments(api, d.config, []string{"--a=b"})
	if err != nil {
		t.Fatal(err)
	}
	api.Handler.NonGoRestfulMux = mux.NewPathRecorderMux("other")
	other, err := installDocuments(api, d.config, []string{"--a=c"})
	if err != nil {
		t.Fatal(err)
	}
	if string(same.list) != string(first) || string(other.list) == string(first) {
		t.Errorf("list:\n%s\nthe same arguments:\n%s\nothers:\n%s", first, same.list, other.list)
	}
}
