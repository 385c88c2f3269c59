// Pays an invoice from an lnd node and returns the preimage in hexadecimal digits.
export async function pay({ url, macaroon }, invoice) {
  const response = await fetch(`${url}/v2/router/send`, {
    method: 'POST',
    headers: { 'Grpc-Metadata-macaroon': macaroon },
    body: JSON.stringify({ payment_request: invoice, timeout_seconds: 30, fee_limit_msat: '0', no_inflight_updates: true }),
  })
  const { result } = JSON.parse((await response.text()).trim().split('\n').at(-1))
  if (result?.status !== 'SUCCEEDED') throw new Error(`not paid: ${JSON.stringify(result)}`)
  return result.payment_preimage
}
