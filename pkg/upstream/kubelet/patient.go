package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// A read that is refused is tried again after firstWait, then after twice that, up to lastWait: 0.6 s in all.
	firstWait = 5 * time.Millisecond
	lastWait  = 320 * time.Millisecond
)

// patient tries refused reads again. The node authorizer lets a kubelet read what its pods refer to, and learns of pods
// by a watch of its own (plugin/pkg/auth/authorizer/node/graph_populator.go): a kubelet in the same process knows of a
// new pod as soon, an agent's nearly so, and is often the first to ask. It would complain, and wait a second before it asks
// again.
type patient struct{ next http.RoundTripper }

// RoundTrip is that of next.
func (p patient) RoundTrip(req *http.Request) (*http.Response, error) {
	for wait := firstWait; ; wait *= 2 {
		resp, err := p.next.RoundTrip(req)
		if err != nil || resp.StatusCode != http.StatusForbidden || req.Method != http.MethodGet || wait > lastWait {
			return resp, err
		}
		// To its end, since closing before that would abort the handler, which would complain.
		_, err = io.Copy(io.Discard, resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return nil, fmt.Errorf("read the answer to a refused request: %w", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-req.Context().Done():
			timer.Stop()
			return nil, context.Cause(req.Context())
		}
	}
}
