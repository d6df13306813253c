package backup

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3 says where in an S3 service backups are kept. Names follow k3s's --etcd-s3-* flags.
type S3 struct {
	// Endpoint is HOST or HOST:PORT. Default s3.amazonaws.com.
	Endpoint string
	Bucket   string
	// Folder is a prefix within the bucket; none by default.
	Folder string
	Region string
	// AccessKey and SecretKey are the credentials; without them those of the environment, of a file or of the machine
	// are used, as AWS's own tools do.
	AccessKey, SecretKey string
	// CAFile has the certificates to trust, or else CA, in PEM; both empty for the system's.
	CAFile string
	CA     []byte
	// Insecure speaks HTTP.
	Insecure bool
	// SkipVerify accepts any certificate.
	SkipVerify bool
	// SessionToken goes with credentials that last for a while.
	SessionToken string
	// Lookup is how the bucket is addressed: dns, path, or auto, which is also what empty means.
	Lookup string
	// Proxy is the URL of an HTTP proxy; empty for the environment's.
	Proxy string
	// Timeout bounds each operation; 0 does not.
	Timeout time.Duration
	// Keep is how many backups stay there; 0 removes none.
	Keep int
}

// bound bounds one operation.
func (s S3) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.Timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, s.Timeout, fmt.Errorf("S3 did not answer within %s", s.Timeout))
}

// transport is nil where minio's own will do.
func (s S3) transport() (http.RoundTripper, error) {
	if s.CAFile == "" && len(s.CA) == 0 && s.Proxy == "" && !s.SkipVerify {
		return nil, nil
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: s.SkipVerify}
	pem, from := s.CA, "the CA bundle"
	if s.CAFile != "" {
		var err error
		if pem, err = os.ReadFile(s.CAFile); err != nil {
			return nil, fmt.Errorf("S3: read CA certificates: %w", err)
		}
		from = s.CAFile
	}
	if len(pem) > 0 || s.CAFile != "" {
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("S3: %s has no certificate", from)
		}
	}
	if s.Proxy != "" {
		u, err := url.Parse(s.Proxy)
		if err != nil {
			return nil, fmt.Errorf("S3: read proxy's URL: %w", err)
		}
		t.Proxy = http.ProxyURL(u)
	}
	return t, nil
}

// lookup is the bucket's address in minio's words.
func (s S3) lookup() minio.BucketLookupType {
	switch s.Lookup {
	case "dns":
		return minio.BucketLookupDNS
	case "path":
		return minio.BucketLookupPath
	default:
		return minio.BucketLookupAuto
	}
}

// Remote is a place for backups in an S3 service. Use [NewRemote].
type Remote struct {
	s      S3
	client *minio.Client
}

// NewRemote checks the configuration; the service is not asked anything yet.
func NewRemote(s S3) (*Remote, error) {
	if s.Bucket == "" {
		return nil, errors.New("S3: a bucket is needed")
	}
	if (s.AccessKey == "") != (s.SecretKey == "") {
		return nil, errors.New("S3: access key and secret key go together, give both or neither")
	}
	if s.Endpoint == "" {
		s.Endpoint = "s3.amazonaws.com"
	}
	transport, err := s.transport()
	if err != nil {
		return nil, err
	}
	o := &minio.Options{Secure: !s.Insecure, Region: s.Region, MaxRetries: 3, BucketLookup: s.lookup(), Transport: transport,
		Creds: credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{}})}
	if s.AccessKey != "" {
		o.Creds = credentials.NewStaticV4(s.AccessKey, s.SecretKey, s.SessionToken)
	}
	client, err := minio.New(s.Endpoint, o)
	if err != nil {
		return nil, fmt.Errorf("S3: %w", err)
	}
	return &Remote{s: s, client: client}, nil
}

func (r *Remote) key(name string) string { return path.Join(r.s.Folder, name) }

// URL names a backup there, for people.
func (r *Remote) URL(name string) string { return "s3://" + path.Join(r.s.Bucket, r.key(name)) }

// Keep is how many backups of a series stay there; 0 removes none.
func (r *Remote) Keep() int { return r.s.Keep }

// Upload sends a backup; its checksum goes along and the service verifies it.
func (r *Remote) Upload(ctx context.Context, file string) error {
	ctx, cancel := r.s.bound(ctx)
	defer cancel()
	_, err := r.client.FPutObject(ctx, r.s.Bucket, r.key(filepath.Base(file)), file, minio.PutObjectOptions{
		ContentType: "application/octet-stream", SendContentMd5: true,
	})
	if err != nil {
		return fmt.Errorf("send backup to S3: %w", err)
	}
	return nil
}

// Download fetches a backup by its name, whole or not at all.
func (r *Remote) Download(ctx context.Context, name, to string) error {
	ctx, cancel := r.s.bound(ctx)
	defer cancel()
	if err := r.client.FGetObject(ctx, r.s.Bucket, r.key(name), to, minio.GetObjectOptions{}); err != nil {
		return fmt.Errorf("fetch backup %s from S3: %w", name, err)
	}
	return nil
}

// List returns the names of the backups there, of all series, the newest first.
func (r *Remote) List(ctx context.Context) ([]string, error) {
	ctx, cancel := r.s.bound(ctx) // also ends the listing when it is left early
	defer cancel()
	prefix := r.s.Folder
	if prefix != "" {
		prefix = strings.TrimSuffix(prefix, "/") + "/"
	}
	var names []string
	for o := range r.client.ListObjects(ctx, r.s.Bucket, minio.ListObjectsOptions{Prefix: prefix}) {
		if o.Err != nil {
			return nil, fmt.Errorf("list backups in S3: %w", o.Err)
		}
		if _, _, ok := parseName(path.Base(o.Key)); ok {
			names = append(names, path.Base(o.Key))
		}
	}
	slices.SortFunc(names, newestFirst)
	return names, nil
}

// Prune removes all but the newest backups of a series there and returns the names of those it removed.
func (r *Remote) Prune(ctx context.Context, s Series, keep int) ([]string, error) {
	if keep < 1 {
		return nil, fmt.Errorf("prune backups in S3: keep %d: at least one has to stay", keep)
	}
	names, err := r.List(ctx)
	names = slices.DeleteFunc(names, func(name string) bool { return !s.has(name) })
	if err != nil || len(names) <= keep {
		return nil, err
	}
	for i, name := range names[keep:] {
		if err := r.remove(ctx, name); err != nil {
			return names[keep : keep+i], fmt.Errorf("prune backups: %w", err)
		}
	}
	return names[keep:], nil
}

func (r *Remote) remove(ctx context.Context, name string) error {
	ctx, cancel := r.s.bound(ctx)
	defer cancel()
	if err := r.client.RemoveObject(ctx, r.s.Bucket, r.key(name), minio.RemoveObjectOptions{}); err != nil {
		return fmt.Errorf("remove backup %s from S3: %w", name, err)
	}
	return nil
}
