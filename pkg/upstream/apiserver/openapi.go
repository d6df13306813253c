package apiserver

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/emicklei/go-restful/v3"
	extensionsopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	utilopenapi "k8s.io/apiserver/pkg/util/openapi"
	aggregatoropenapi "k8s.io/kube-aggregator/pkg/generated/openapi"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	"github.com/knarr-io/knarr/pkg/version"
)

// documents are kube-apiserver's OpenAPI documents, made when they are asked for: those of version 3 each by itself.
// Upstream builds all of them while it starts (k8s.io/apiserver/pkg/server/genericapiserver.go:447), and hashes and
// keeps them, a third of a second and 30 MB that most nodes never use. The aggregator in front asks for the list of them
// every second (kube-aggregator/pkg/controllers/openapiv3/controller.go:35), and for the rest when clients do. Custom
// resources and aggregated APIs are not among them; upstream serves those as ever.
type documents struct {
	config *genericapiserver.Config
	apis   *restful.Container
	v2     func() (http.Handler, error)
	// groups are by the path under /openapi/v3, as in "apis/apps/v1".
	groups map[string]func() *handler3.OpenAPIService
	list   []byte
}

// openAPIv3 is where the documents of version 3 are listed, and under which they are.
const openAPIv3 = "/openapi/v3"

// takeDocuments has upstream leave the documents of the built-in types to [installDocuments], and gives the servers of
// custom resources and of APIServices the definitions of their own few types, where they would have those of all types
// made to choose from. Call it before the configuration is complete.
func takeDocuments(config *app.Config) {
	config.KubeAPIs.ControlPlane.Generic.SkipOpenAPIInstallation = true
	only := func(all *common.Config, own common.GetOpenAPIDefinitions) *common.Config {
		c := *all
		c.GetDefinitions = utilopenapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(own)
		return &c
	}
	extensions, aggregator := &config.ApiExtensions.GenericConfig.Config, &config.Aggregator.GenericConfig.Config
	extensions.OpenAPIConfig = only(extensions.OpenAPIConfig, extensionsopenapi.GetOpenAPIDefinitions)
	aggregator.OpenAPIConfig = only(aggregator.OpenAPIConfig, aggregatoropenapi.GetOpenAPIDefinitions)
}

// installDocuments serves the documents of kube, all of whose APIs are installed. What they say is decided by the
// executable and by args, so these two name their state.
func installDocuments(kube *genericapiserver.GenericAPIServer, config *genericapiserver.Config, args []string) (*documents, error) {
	d := &documents{config: config, apis: kube.Handler.GoRestfulContainer, groups: map[string]func() *handler3.OpenAPIService{}}
	d.v2 = sync.OnceValues(d.buildV2)
	state := sha256.Sum256([]byte(strings.Join(append([]string{version.Version, version.GitCommit}, args...), "\n")))
	list := handler3.OpenAPIV3Discovery{Paths: map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}}
	for _, api := range d.apis.RegisteredWebServices() {
		group := strings.TrimPrefix(api.RootPath(), "/")
		d.groups[group] = sync.OnceValue(func() *handler3.OpenAPIService { return d.buildV3(api) })
		list.Paths[group] = handler3.OpenAPIV3DiscoveryGroupVersion{
			ServerRelativeURL: fmt.Sprintf("%s/%s?hash=%X", openAPIv3, group, state),
		}
	}
	var err error
	if d.list, err = json.Marshal(list); err != nil {
		return nil, fmt.Errorf("list OpenAPI documents: %w", err)
	}
	m := kube.Handler.NonGoRestfulMux
	m.HandleFunc("/openapi/v2", d.serveV2)
	m.HandleFunc(openAPIv3, d.serveList)
	m.HandlePrefix(openAPIv3+"/", http.HandlerFunc(d.serveV3))
	return d, nil
}

// serveList answers with hashes that stand for the state of all documents and not for the one: who asks with such a hash
// is sent on to that of the document, as is anybody whose hash is of before (kube-openapi/pkg/handler3/handler.go:249).
func (d *documents) serveList(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(d.list) // the aggregator's buffer
}

func (d *documents) serveV3(w http.ResponseWriter, r *http.Request) {
	document, ok := d.groups[strings.TrimPrefix(r.URL.Path, openAPIv3+"/")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	document().HandleGroupVersion(w, r)
}

func (d *documents) serveV2(w http.ResponseWriter, r *http.Request) {
	document, err := d.v2()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	document.ServeHTTP(w, r)
}

// buildV2 follows InstallV2 (k8s.io/apiserver/pkg/server/routes/openapi.go:42), which ends the process if it fails.
func (d *documents) buildV2() (http.Handler, error) {
	document, err := builder.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(d.apis.RegisteredWebServices()), d.config.OpenAPIConfig)
	if err != nil {
		return nil, fmt.Errorf("build the OpenAPI document of version 2: %w", err)
	}
	document.Definitions = handler.PruneDefaults(document.Definitions)
	m := mux.NewPathRecorderMux("openapi-v2")
	handler.NewOpenAPIService(document).RegisterOpenAPIVersionedService("/openapi/v2", m)
	return m, nil
}

// buildV3 makes the document of one group and version.
func (d *documents) buildV3(api *restful.WebService) *handler3.OpenAPIService {
	only := restful.NewContainer()
	only.Add(api)
	return routes.OpenAPI{V3Config: d.config.OpenAPIV3Config}.InstallV3(only, mux.NewPathRecorderMux("openapi-v3"))
}

// forgetDefinitions drops the definitions of all types (10 MB), of which every server in the chain has taken what it
// needs by PrepareRun; a document that is built later has them made anew.
func (d *documents) forgetDefinitions() { d.config.OpenAPIV3Config.Definitions = nil }
