package kubeproxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// Upstream ends the process when it sees its Node deleted (pkg/proxy/node.go:216), at once and with os.Exit, while an
// agent has to end the node's pods first, and a server starts again in place, which keeps them. So kube-proxy is not told:
// its requests for Nodes are answered until there is nothing but the deletion to answer with, and then not any more. The
// way in is client-go's: a kubeconfig that names an authentication provider, which may wrap the transport.

// provider is its name.
const provider = "knarr"

// steady writes a copy of the kubeconfig whose user's requests go through [deaf].
func steady(from, to string) error {
	config, err := clientcmd.LoadFromFile(from)
	if err != nil {
		return fmt.Errorf("read kube-proxy's kubeconfig: %w", err)
	}
	for _, user := range config.AuthInfos {
		user.AuthProvider = &api.AuthProviderConfig{Name: provider}
	}
	text, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("encode kube-proxy's kubeconfig: %w", err)
	}
	if _, err := atomicfile.WriteIfChanged(to, text, 0o600); err != nil {
		return fmt.Errorf("write kube-proxy's kubeconfig: %w", err)
	}
	err = rest.RegisterAuthProviderPlugin(provider, func(string, map[string]string, rest.AuthProviderConfigPersister) (rest.AuthProvider, error) {
		return wrapper{}, nil
	})
	if err != nil {
		return fmt.Errorf("set up kube-proxy's transport: %w", err)
	}
	return nil
}

type wrapper struct{}

func (wrapper) WrapTransport(next http.RoundTripper) http.RoundTripper { return deaf{next} }
func (wrapper) Login() error                                           { return nil }

// deaf does not hear of Nodes that are gone.
type deaf struct{ next http.RoundTripper }

// RoundTrip is that of next, except for what is about Nodes.
func (d deaf) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Path != "/api/v1/nodes" {
		return d.next.RoundTrip(req)
	}
	req = req.Clone(req.Context())
	req.Header.Set("Accept", "application/json") // in which events are lines
	resp, err := d.next.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	ctx, cancel := context.WithCancel(req.Context())
	hears := heard
	if req.URL.Query().Get("watch") == "" {
		hears = listed
	}
	resp.Body = &filtered{from: resp.Body, lines: bufio.NewReader(resp.Body), hears: hears, ctx: ctx, cancel: cancel}
	return resp, nil
}

// filtered passes lines on as long as they may be heard, and then waits for the end.
type filtered struct {
	from   io.Closer
	lines  *bufio.Reader
	hears  func(line []byte, first bool) bool
	ctx    context.Context //nolint:containedctx // of the request
	cancel context.CancelFunc

	rest []byte // of the line that is being passed on
	some bool   // has been passed on
}

// Read returns at most the rest of one line.
func (f *filtered) Read(b []byte) (int, error) {
	if len(f.rest) == 0 {
		line, err := f.lines.ReadBytes('\n')
		if len(line) == 0 {
			return 0, err
		}
		if !f.hears(line, !f.some) {
			<-f.ctx.Done()
			return 0, f.ctx.Err()
		}
		f.rest, f.some = line, true
	}
	n := copy(b, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// Close ends a Read that waits.
func (f *filtered) Close() error {
	f.cancel()
	return f.from.Close()
}

// heard is about an event of a watch: neither a deletion nor, at the beginning, the end of a list of none.
func heard(line []byte, first bool) bool {
	var event struct {
		Type   string
		Object struct{ Metadata metav1.ObjectMeta }
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return true // whoever asked will say what is wrong with it
	}
	return event.Type != "DELETED" && (!first || event.Object.Metadata.Annotations[metav1.InitialEventsAnnotationKey] == "")
}

// listed is about a list: it is not empty.
func listed(line []byte, _ bool) bool {
	var list struct{ Items []json.RawMessage }
	if err := json.Unmarshal(bytes.TrimSpace(line), &list); err != nil {
		return true
	}
	return len(list.Items) > 0
}
