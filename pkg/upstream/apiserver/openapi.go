package apiserver

import (
	"bytes"
	"maps"
	"net/http"
	"sync"

	genericapiserver "k8s.io/apiserver/pkg/server"
)

// openAPIIndex is where a server lists its OpenAPI version 3 documents, with their hashes (apiserver
// pkg/server/routes/openapi.go:60).
const openAPIIndex = "/openapi/v3"

// keepOpenAPIIndex spares kube-apiserver to make its list of OpenAPI documents anew each second, which is what the
// aggregator asks of everything in the chain behind it (kube-aggregator pkg/controllers/openapiv3/controller.go:35) and
// took a sixth of the CPU at rest. The list of the built-in types cannot change once they are installed; custom
// resources have a server of their own in the chain, which is asked as ever. Call it before PrepareRun: the aggregator
// takes the handler there (openapiv3/aggregator/aggregator.go:109); clients' requests do not go through it.
func keepOpenAPIIndex(kube *genericapiserver.GenericAPIServer) {
	kube.Handler.Director = &onceAnswered{path: openAPIIndex, next: kube.Handler.Director}
}

// onceAnswered remembers the first good answer to a GET of path.
type onceAnswered struct {
	path string
	next http.Handler

	mu     sync.Mutex
	answer *answer // nil before the first good one
}

// answer is a response as it was written.
type answer struct {
	status int
	header http.Header
	body   bytes.Buffer
}

// Header, WriteHeader and Write make an answer an http.ResponseWriter.
func (a *answer) Header() http.Header            { return a.header }
func (a *answer) WriteHeader(status int)         { a.status = status }
func (a *answer) Write(data []byte) (int, error) { return a.body.Write(data) }

// ServeHTTP answers from memory where it can.
func (o *onceAnswered) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || r.URL.Path != o.path {
		o.next.ServeHTTP(w, r)
		return
	}
	a := o.get(r)
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes()) // the reader is a buffer, or gone
}

func (o *onceAnswered) get(r *http.Request) *answer {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.answer != nil {
		return o.answer
	}
	a := &answer{status: http.StatusOK, header: http.Header{}}
	o.next.ServeHTTP(a, r)
	if a.status == http.StatusOK {
		o.answer = a
	}
	return a
}
