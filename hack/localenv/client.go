// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package localenv

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // the client side of health checks
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// TLS trusts the operator's certificate.
func (op *Operator) TLS() (*tls.Config, error) {
	pool := x509.NewCertPool()
	if err := op.trust(pool); err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// trust adds the operator's certificate to pool.
func (op *Operator) trust(pool *x509.CertPool) error {
	ca, err := os.ReadFile(filepath.Join(op.Dir, "tls.crt"))
	if err != nil {
		return err
	}
	if !pool.AppendCertsFromPEM(ca) {
		return errors.New("tls.crt holds no certificate")
	}
	return nil
}

// Dial connects to the data plane; every call carries token. The caller closes the connection.
func (op *Operator) Dial(token string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	return op.DialAt(Loopback(op.Ports.GRPC), token, options...)
}

// DialAt is Dial through another address in front of the operator, for tests that cut links.
func (op *Operator) DialAt(address, token string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if !op.plaintext {
		config, err := op.TLS()
		if err != nil {
			return nil, err
		}
		transport = credentials.NewTLS(config)
	}
	options = append(options, grpc.WithTransportCredentials(transport), grpc.WithPerRPCCredentials(bearer{token: token, plaintext: op.plaintext}))
	return grpc.NewClient(address, options...)
}

// DialHosts makes one connection to several operators, as a Service in front of them would: calls and streams go in turns to those that are healthy. The
// caller closes it.
func DialHosts(token string, hosts ...*Operator) (*grpc.ClientConn, error) {
	pool, several := x509.NewCertPool(), manual.NewBuilderWithScheme("hosts")
	var addresses []resolver.Address
	for _, host := range hosts {
		if err := host.trust(pool); err != nil {
			return nil, err
		}
		addresses = append(addresses, resolver.Address{Addr: Loopback(host.Ports.GRPC)})
	}
	several.InitialState(resolver.State{Addresses: addresses})
	return grpc.NewClient(several.Scheme()+":///operator", grpc.WithResolvers(several), grpc.WithAuthority("localhost"),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}],"healthCheckConfig":{"serviceName":""}}`),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}}),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})),
		grpc.WithPerRPCCredentials(bearer{token: token}))
}

// bearer puts a token on each call; over TLS only, unless the operator itself serves loopback without.
type bearer struct {
	token     string
	plaintext bool
}

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

func (b bearer) RequireTransportSecurity() bool { return !b.plaintext }

// Post sends JSON to path of the HTTP data plane and returns status code and answer.
func (op *Operator) Post(ctx context.Context, token, path, body string) (int, []byte, error) {
	config, err := op.TLS()
	if err != nil {
		return 0, nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+Loopback(op.Ports.HTTP)+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// Metrics reads the samples of /metrics, keyed as Prometheus prints them: name{labels}. token must be allowed to.
func (op *Operator) Metrics(ctx context.Context, token string) (map[string]float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+Loopback(op.Ports.Metrics)+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	config, err := op.TLS()
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read metrics: %s", response.Status)
	}
	return parseSamples(response.Body)
}

func parseSamples(r io.Reader) (map[string]float64, error) {
	samples := map[string]float64{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics line %q: %w", line, err)
		}
		samples[line[:i]] = v
	}
	return samples, lines.Err()
}

// Sum adds the samples whose name (without labels) is name.
func Sum(samples map[string]float64, name string) float64 {
	total := samples[name]
	for key, v := range samples {
		if strings.HasPrefix(key, name+"{") {
			total += v
		}
	}
	return total
}
